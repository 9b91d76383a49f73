"""``espnet-kd tokens``: make the token list, as stage 5 of ESPnet's asr.sh does.

tokens.txt has <blank>, <unk>, the tokens and <sos/eos>. ESPnet's ``espnet2.bin.tokenize_text`` counts
characters and words; sentencepiece trains BPE models with the options of asr.sh.
"""

import io
import re
import tempfile
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.data.tables import SortedTable
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, iterate_lines, read_lines

BLANK, UNKNOWN, SOS_EOS = "<blank>", "<unk>", "<sos/eos>"


def main(argv: list[str] | None = None) -> None:
    """Run ``tokens --token_type TYPE [--nbpe N] [--bpemode MODE] --text FILE ... --out DIR``."""
    parser = command_parser("tokens")
    parser.add_argument("--token_type", choices=("bpe", "char", "word"), required=True)
    parser.add_argument("--nbpe", type=int, default=30, help="BPE vocabulary size (default: %(default)s)")
    parser.add_argument("--bpemode", choices=("unigram", "bpe"), default="unigram")
    parser.add_argument(
        "--nlsyms", type=Path, help="file of non-linguistic symbols, one per line; each becomes a token"
    )
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="Kaldi text files")
    parser.add_argument("--out", type=Path, required=True, help="directory to write tokens.txt into")
    args = parser.parse_args(argv)
    if args.nbpe < 1:
        raise UserError(f"--nbpe {args.nbpe}: must be at least 1")
    train = args.out / "train.txt"
    number = write_sentences(args.text, train)
    if args.token_type == "bpe":
        tokens = train_bpe(train, args.nbpe, args.bpemode, read_symbols(args.nlsyms), args.out)
    else:
        tokens = count_tokens(train, args.token_type, args.nlsyms)
    write_token_list(args.out / "tokens.txt", tokens)
    print(f"{args.out}/tokens.txt: {len(tokens) + 3} tokens from {number} sentences")


def write_sentences(texts: list[Path], train: Path) -> int:
    """Write the transcripts of Kaldi text files that are not empty, one per line, and return their number.

    Raises:
        UserError: all are empty.
    """
    count = 0
    with atomic_path(train) as tmp:
        with tmp.open("w", encoding="utf-8", newline="\n") as f:
            for line in filter(None, (line for path in texts for line in SortedTable(path).values())):
                f.write(" ".join(line.split()) + "\n")
                count += 1
        if not count:
            names = ", ".join(map(str, texts))
            raise UserError(f"{names}: there are no transcripts to make tokens from")
    return count


def read_symbols(path: str | Path | None) -> list[str]:
    """Read a file of non-linguistic symbols, one per line; None gives none.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        return [] if path is None else [line.strip() for line in read_lines(path) if line.strip()]
    except UserError as e:
        raise UserError(f"--nlsyms {e}: give a file with one symbol per line") from None


def train_bpe(train: Path, size: int, mode: str, symbols: list[str], out: Path) -> list[str]:
    """Train a BPE model, write OUT/bpe.model and OUT/bpe.vocab, and return its pieces.

    The pieces <unk>, <s> and </s> are left out.

    Raises:
        UserError: the text is too small for so many pieces, or has more different characters.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iterate_lines(train),  # not the file, whose name the model would have
            model_writer=model,
            vocab_size=size,
            model_type=mode,
            character_coverage=1.0,
            input_sentence_size=100_000_000,
            user_defined_symbols=symbols,
            minloglevel=2,
        )
    except RuntimeError as e:
        raise UserError(f"--nbpe {size}: {_explain(str(e))}") from None
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(processor.get_piece_size())
    with atomic_path(out / "bpe.vocab") as tmp:
        lines = (f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}\n" for i in ids)
        tmp.write_text("".join(lines), encoding="utf-8")
    with atomic_path(out / "bpe.model") as tmp:
        tmp.write_bytes(model.getvalue())
    return [processor.id_to_piece(i) for i in ids[3:]]


def count_tokens(train: Path, token_type: str, nlsyms: Path | None) -> list[str]:
    """Return characters (a space is <space>) or words, the most frequent first, as counted by ESPnet."""
    read_symbols(nlsyms)
    from espnet_kd.host.options import write_token_counts

    with tempfile.TemporaryDirectory() as scratch:
        counted = Path(scratch, "tokens")
        write_token_counts(train, counted, token_type, nlsyms)
        return read_lines(counted)


def write_token_list(path: Path, tokens: list[str]) -> None:
    """Write tokens.txt.

    Raises:
        UserError: a special token is in the text, so the list would have it twice.
    """
    for special in (BLANK, UNKNOWN, SOS_EOS):
        if special in tokens:
            raise UserError(
                f"{path}: {special} is in the text, but is a special token: rename it in the text"
            )
    with atomic_path(path) as tmp:
        tmp.write_text("".join(f"{t}\n" for t in (BLANK, UNKNOWN, *tokens, SOS_EOS)), encoding="utf-8")


def _explain(message: str) -> str:
    if match := re.search(r"<= (\d+)\.", message):
        return f"the text is too small for so many pieces, the largest possible number is {match[1]}"
    if match := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"the text has more different characters, the smallest possible number is {match[1]}"
    return f"sentencepiece fails: {message}"
