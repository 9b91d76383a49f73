"""``espnet-kd token-from MODEL --token_type TYPE --out DIR``: take the token list of a teacher for a student.

Posteriors can then be compared: with BPE models that were trained on other text, two lists of one size share
few pieces. Of models for several tasks, such as OWSM, the symbols of languages, tasks and times are left out.
"""

from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.data.tokens import (
    BLANK,
    SOS_EOS,
    UNKNOWN,
    add_evaluated,
    check_evaluated,
    check_transcripts,
    write_bpe_model,
    write_token_list,
)
from espnet_kd.errors import UserError
from espnet_kd.host.outputs import NO_FILE, OWSM, absolute_paths, task_of
from espnet_kd.teachers.experiment import read_config
from espnet_kd.teachers.kinds import Source, add_source, source_of
from espnet_kd.teachers.token_maps import is_special


def main(argv: list[str] | None = None) -> None:
    """Write tokens.txt, and bpe.model for BPE."""
    parser = command_parser("token-from")
    add_source(parser)
    parser.add_argument("--token_type", choices=("bpe", "char", "word"), required=True)
    parser.add_argument("--out", type=Path, required=True, help="directory to write tokens.txt into")
    parser.add_argument("--transcripts", type=Path, help="of the student, to check that it can write them")
    add_evaluated(parser)
    parser.add_argument("--nlsyms", help="file of their non-linguistic symbols, one per line")
    parser.add_argument("--cleaner", default="none", help="ESPnet's cleaning of them (default: none)")
    args = parser.parse_args(argv)
    teacher = source_of(args)
    tokens = of_experiment(teacher, args.token_type, args.out)
    if tokens is None:
        tokens = of_characters(teacher, args.token_type)
    if (tokens[0], tokens[1], tokens[-1]) == (BLANK, UNKNOWN, SOS_EOS):
        tokens = tokens[2:-1]  # what is written around the others
    else:
        raise UserError(
            f"the tokens of {teacher} are not {BLANK}, {UNKNOWN}, ..., {SOS_EOS}, as a student's have to be: "
            "give a teacher of the task asr, s2t or s2t_ctc"
        )
    model = args.out / "bpe.model" if args.token_type == "bpe" else None
    if args.transcripts is not None:
        check_transcripts(args.transcripts, tokens, model, args)
    check_evaluated(tokens, model, args)
    write_token_list(args.out / "tokens.txt", tokens)
    print(f"{args.out}/tokens.txt: {len(tokens) + 3} tokens of {teacher}")


def of_experiment(teacher: Source, token_type: str, out: Path) -> list[str] | None:
    """Return the tokens of an ESPnet experiment, and copy its BPE model; None for other teachers.

    Raises:
        UserError: its tokens are of another type.
    """
    if teacher.kind != "exp":
        return None
    directory = teacher.locate()
    config = read_config(directory)
    found = config.get("token_type", "bpe")
    if found != token_type:
        raise UserError(f"--token_type {token_type}: {teacher} has tokens of the type {found}: give it")
    if token_type == "bpe":
        model = absolute_paths(config, directory).get("bpemodel")
        if model in NO_FILE:
            raise UserError(f"{directory / 'config.yaml'} names no bpemodel, which its tokens need")
        write_bpe_model(out, Path(str(model)).read_bytes())
    tokens = list(map(str, config["token_list"]))
    return [BLANK, UNKNOWN, *text_tokens(tokens), SOS_EOS] if task_of(config) in OWSM else tokens


def of_characters(teacher: Source, token_type: str) -> list[str]:
    """Return the letters of a CTC model that is no ESPnet experiment.

    Raises:
        UserError: it has no tokens, or others than letters.
    """
    tokens = teacher.load().tokens or []
    letters = [t for t in tokens if not (is_special(t) or t == BLANK)]
    if token_type != "char" or not letters or any(len(t) > 1 and t != "<space>" for t in letters):
        raise UserError(
            f"--token_type {token_type}: {teacher} has no list of characters: give a CTC model of characters "
            "with --token_type char, or an ESPnet experiment"
        )
    return [BLANK, UNKNOWN, *letters, SOS_EOS]


def text_tokens(tokens: list[str]) -> list[str]:
    """Return the tokens that stand for text."""
    return [t for t in tokens if t == "<space>" or not (len(t) > 2 and t.startswith("<") and t.endswith(">"))]
