"""``espnet-kd tokens``: make the token list, as stage 5 of ESPnet's asr.sh does.

tokens.txt has <blank>, <unk>, the tokens and <sos/eos>. ESPnet's ``espnet2.bin.tokenize_text`` counts
characters and words; sentencepiece trains BPE models with the options of asr.sh.
"""

import argparse
import io
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from espnet_kd.command_line import command_parser
from espnet_kd.data.tables import SortedTable
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_path, iterate_lines, read_lines, write_text

BLANK, UNKNOWN, SOS_EOS = "<blank>", "<unk>", "<sos/eos>"
CHECKED_SENTENCES, MOST_UNKNOWN = 100_000, 0.1
LONGEST_SENTENCE = 4192  # bytes, sentencepiece's max_sentence_length, which asr.sh leaves as it is


def main(argv: list[str] | None = None) -> None:
    """Run ``tokens --token_type TYPE [--nbpe N] [--bpemode MODE] --text FILE ... --out DIR``."""
    parser = command_parser("tokens")
    parser.add_argument("--token_type", choices=("bpe", "char", "word"), required=True, help="of the list")
    parser.add_argument("--nbpe", type=int, default=30, help="BPE vocabulary size (default: %(default)s)")
    parser.add_argument(
        "--bpemode", choices=("unigram", "bpe"), default="unigram", help="of BPE (default: %(default)s)"
    )
    parser.add_argument(
        "--nlsyms", type=Path, help="file of non-linguistic symbols, one per line; each becomes a token"
    )
    parser.add_argument(
        "--bpe_nlsyms",
        help="for BPE, instead of them: a list of symbols with commas, or such a file; none: no symbols",
    )
    parser.add_argument(
        "--bpe_input_sentence_size", type=int, default=1_000_000,
        help="most sentences that sentencepiece reads, which take 1.5 GB of memory for a million; of more, "
        "it gets some at equal distances (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--bpe_char_cover", type=float, default=1.0,
        help="share of characters that have pieces (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--cleaner", default="none", help="ESPnet's cleaning of text (default: %(default)s)")
    parser.add_argument("--g2p", default="none", help="ESPnet's phonemes of words (default: %(default)s)")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="Kaldi text files")
    parser.add_argument("--transcripts", type=Path, help="of the student, if --text is other text, to check")
    add_evaluated(parser)
    parser.add_argument("--out", type=Path, required=True, help="directory to write tokens.txt into")
    args = parser.parse_args(argv)
    if args.nbpe < 1:
        raise UserError(f"--nbpe {args.nbpe}: must be at least 1")
    if args.bpe_input_sentence_size < 1:
        raise UserError(f"--bpe_input_sentence_size {args.bpe_input_sentence_size}: must be at least 1")
    if not 0 < args.bpe_char_cover <= 1:
        raise UserError(f"--bpe_char_cover {args.bpe_char_cover:g}: must be above 0 and at most 1")
    train = args.out / "train.txt"
    number = write_sentences(args.text, train)
    if args.token_type == "bpe":
        options = {
            "vocab_size": args.nbpe,
            "model_type": args.bpemode,
            "character_coverage": args.bpe_char_cover,
            "user_defined_symbols": bpe_symbols(args.bpe_nlsyms, args.nlsyms),
        }
        sentences = at_equal_distances(iterate_lines(train), number, args.bpe_input_sentence_size)
        tokens = train_bpe(without_long(sentences), options, args.out)
    else:
        text = {"cleaner": args.cleaner, "g2p": args.g2p}
        tokens = count_tokens(train, args.token_type, args.nlsyms, text)
    model = args.out / "bpe.model" if args.token_type == "bpe" else None
    if args.transcripts is not None:
        check_transcripts(args.transcripts, tokens, model, args)
    check_evaluated(tokens, model, args)
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


def join_texts(paths: Iterable[str]) -> None:
    """Print the lines of Kaldi texts that have words, with one plain space between words.

    Args:
        paths: of the texts. Ids get the end of the file's name, of text_more it is _more.

    Raises:
        UserError: a text cannot be read, or is not UTF-8.
    """
    with open(1, "w", encoding="utf-8", closefd=False) as out:
        for path in paths:
            suffix = Path(path).name.replace("text", "", 1)
            for line in iterate_lines(path):
                utt, *words = line.split() or [""]
                if words:
                    out.write(f"{utt}{suffix} {' '.join(words)}\n")


def clean_table(table: Mapping[str, str], cleaner: str) -> dict[str, str]:
    """Return transcripts as ESPnet's cleaning makes them.

    Raises:
        UserError: there is no such cleaner, or it is not installed.
    """
    from espnet_kd.host.options import text_cleaner

    clean = text_cleaner(cleaner)
    return {utt: clean(text) for utt, text in table.items()}


def read_symbols(path: str | Path | None) -> list[str]:
    """Read a file of non-linguistic symbols, one per line; None gives none.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        return [] if path is None else [line.strip() for line in read_lines(path) if line.strip()]
    except UserError as e:
        raise UserError(f"--nlsyms {e}: give a file with one symbol per line") from None


def bpe_symbols(bpe_nlsyms: str | None, nlsyms: Path | None) -> list[str]:
    """Return the symbols that are pieces of their own.

    Args:
        bpe_nlsyms: a list with commas, a file with one in each line, ``none``, or None for those of
            ``nlsyms``.
        nlsyms: file of the non-linguistic symbols.
    """
    if bpe_nlsyms is None:
        return read_symbols(nlsyms)
    if bpe_nlsyms == "none":
        return []
    return read_symbols(bpe_nlsyms) if Path(bpe_nlsyms).is_file() else bpe_nlsyms.split(",")


def at_equal_distances(lines: Iterable[str], number: int, most: int) -> Iterator[str]:
    """Yield so many of a number of lines, or all of them if they are fewer."""
    return (line for i, line in enumerate(lines) if number <= most or i * most % number < most)


def without_long(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines that sentencepiece reads; at the end, warn of longer ones, which it skips."""
    left_out = 0
    for line in lines:
        if len(line.encode()) > LONGEST_SENTENCE:
            left_out += 1
        else:
            yield line
    if left_out:
        print(
            f"warning: {left_out} sentences have more than {LONGEST_SENTENCE} bytes: sentencepiece learns "
            "nothing from them; divide them into several lines of --bpe_train_text",
            file=sys.stderr,
        )


def train_bpe(sentences: Iterator[str], options: Mapping[str, Any], out: Path) -> list[str]:
    """Train a BPE model, write OUT/bpe.model and OUT/bpe.vocab, and return its pieces.

    The pieces <unk>, <s> and </s> are left out.

    Args:
        sentences: to train it on.
        options: of sentencepiece.
        out: directory of the files.

    Raises:
        UserError: the text is too small for so many pieces, or has more different characters.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences,  # not a file, whose name the model would have
            model_writer=model,
            minloglevel=2,
            **options,
        )
    except RuntimeError as e:
        raise UserError(f"--nbpe {options['vocab_size']}: {_explain(str(e))}") from None
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(processor.get_piece_size())
    with atomic_path(out / "bpe.vocab") as tmp:
        lines = (f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}\n" for i in ids)
        tmp.write_text("".join(lines), encoding="utf-8")
    write_bpe_model(out, model.getvalue())
    return [processor.id_to_piece(i) for i in ids[3:]]


def write_bpe_model(out: Path, model: bytes) -> None:
    """Write OUT/bpe.model; if it changes, remove tokens.txt before: a killed run would leave an old one."""
    path = out / "bpe.model"
    if path.is_file() and path.read_bytes() == model:
        return
    (out / "tokens.txt").unlink(missing_ok=True)
    with atomic_path(path) as tmp:
        tmp.write_bytes(model)


def count_tokens(train: Path, token_type: str, nlsyms: Path | None, text: Mapping[str, str]) -> list[str]:
    """Return characters (a space is <space>) or words, the most frequent first, as counted by ESPnet.

    Args:
        train: sentences, one a line.
        token_type: ``char`` or ``word``.
        nlsyms: file of symbols that are tokens of their own.
        text: ``cleaner`` and ``g2p``, as ESPnet names them.
    """
    read_symbols(nlsyms)
    from espnet_kd.host.options import write_token_counts

    with tempfile.TemporaryDirectory() as scratch:
        counted = Path(scratch, "tokens")
        write_token_counts(train, counted, token_type, nlsyms, text)
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
    write_text(path, "".join(f"{t}\n" for t in (BLANK, UNKNOWN, *tokens, SOS_EOS)))


def _explain(message: str) -> str:
    if match := re.search(r"<= (\d+)\.", message):
        return f"the text is too small for so many pieces, the largest possible number is {match[1]}"
    if match := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"the text has more different characters, the smallest possible number is {match[1]}"
    return f"sentencepiece fails: {message}"


def add_evaluated(parser: argparse.ArgumentParser) -> None:
    """Add the option of ``check_evaluated``."""
    text = "Kaldi texts of the development and test sets, to warn of what no model can write"
    parser.add_argument("--evaluated", type=Path, nargs="*", default=[], help=text)


def check_evaluated(tokens: list[str], bpemodel: Path | None, options: argparse.Namespace) -> None:
    """Warn of tokens of ``options.evaluated`` that the list lacks; other arguments as ``check_transcripts``.

    A set whose letters have another case has an error rate of 100 % by any model.
    """
    for text in options.evaluated:
        share, found = _lacking(text, tokens, bpemodel, options)
        if share:
            print(
                f"warning: {found}: no model can write them, so that they count as errors; check that "
                "letters have the case of the training text",
                file=sys.stderr,
            )


def check_transcripts(
    text: Path, tokens: list[str], bpemodel: Path | None, options: argparse.Namespace
) -> None:
    """Warn of tokens of transcripts that a list from elsewhere lacks, because they are learnt as <unk>.

    Args:
        text: Kaldi text of the transcripts; of many, some at equal distances are read.
        tokens: the list.
        bpemodel: sentencepiece model of BPE tokens.
        options: with ``token_type``, ``nlsyms`` and ``cleaner``.

    Raises:
        UserError: it lacks more than ``MOST_UNKNOWN`` of them, as where letters have another case.
    """
    share, found = _lacking(text, tokens, bpemodel, options)
    if share > MOST_UNKNOWN:
        raise UserError(
            f"{found}, and would be learnt as <unk>: write the transcripts as the text that the tokens "
            "were made from, such as in upper case"
        )
    if share:
        print(f"warning: {found}, and are learnt as <unk>", file=sys.stderr)


def _lacking(
    text: Path, tokens: list[str], bpemodel: Path | None, options: argparse.Namespace
) -> tuple[float, str]:
    """Return the share of the tokens of transcripts that a list lacks, and a text that names some of them."""
    from espnet_kd.host.options import text_tokenizer

    read_symbols(options.nlsyms)  # ESPnet splits them into characters where it finds no file
    symbols = None if options.nlsyms is None else str(options.nlsyms)
    model = None if bpemodel is None else str(bpemodel)
    split = text_tokenizer(options.token_type, model, symbols, options.cleaner)
    table, known = SortedTable(text), frozenset(tokens)
    lines = at_equal_distances(table.values(), len(table), CHECKED_SENTENCES)
    counts = Counter(token for line in lines for token in split(" ".join(line.split())))
    total, unknown = counts.total(), counts - Counter({token: counts[token] for token in known})
    shown = " ".join(token for token, _ in unknown.most_common(5))
    share = unknown.total() / total if total else 0.0
    return share, f"{text}: {unknown.total()} of {total} tokens ({shown}) are not in the list"


def stand_in_tokens(count: int) -> list[str]:
    """Return a token list of a size, for sizes of a model whose tokens are not known yet."""
    return [BLANK, UNKNOWN, *(f"t{i}" for i in range(count - 3)), SOS_EOS]
