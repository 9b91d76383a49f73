"""``espnet-kd parts``: find the sets that a development set consists of, and join their hypotheses.

LibriSpeech's ``dev`` is ``dev_clean`` and ``dev_other`` (without what stage 4 drops): decoding all three
would decode every utterance twice.
"""

import argparse
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.errors import UserError
from espnet_kd.files import read_table, write_text

TABLES = ("utt2num_samples", "text")
DECODED = ("token_int", "token", "score", "text")  # text last: it marks a set as decoded


def main(argv: list[str] | None = None) -> None:
    """Run ``parts --set DUMP --among DUMP... [--decoded DIR]``."""
    parser = command_parser("parts")
    parser.add_argument("--set", type=Path, required=True, help="dump directory of the development set")
    parser.add_argument("--among", nargs="+", type=Path, required=True, help="dump directories of other sets")
    parser.add_argument(
        "--decoded",
        type=Path,
        help="directory with a decoded set in each subdirectory; without it the parts are printed",
    )
    args: argparse.Namespace = parser.parse_args(argv)
    places = find_parts(args.set, args.among)
    if args.decoded is None:
        print("".join(f"{part.name}\n" for part in dict.fromkeys(places.values())), end="")
    elif not places:
        raise UserError(
            f"{args.set} does not consist of {' '.join(map(str, args.among))}: leave out --decoded"
        )
    else:
        join(args.decoded, args.set.name, {utt: part.name for utt, part in places.items()})


def find_parts(whole: Path, among: list[Path]) -> dict[str, Path]:
    """Return utterance -> directory of the set that has it, too; empty unless all are in other sets.

    An utterance is the same if id, number of samples and transcript are.

    Raises:
        UserError: a table cannot be read.
    """
    samples, text = (read_table(whole / name) for name in TABLES)
    found: dict[str, Path] = {}
    for directory in among:
        if not all((directory / name).is_file() for name in TABLES):
            continue
        their_samples, their_text = (read_table(directory / name) for name in TABLES)
        for utt in their_samples.keys() & samples.keys():
            if (their_samples[utt], their_text.get(utt)) == (samples[utt], text.get(utt)):
                found.setdefault(utt, directory)
    return {utt: found[utt] for utt in samples} if found.keys() == samples.keys() else {}


def join(decoded: Path, name: str, places: dict[str, str]) -> None:
    """Write the hypotheses of a set, which are those of other decoded sets, unless they are there.

    Args:
        decoded: directory of decoded sets.
        name: of the set.
        places: utterance -> name of the set that has its hypothesis.

    Raises:
        UserError: a set is not decoded, or lacks an utterance.
    """
    parts = set(places.values())
    # An ensemble has texts alone.
    for file in [f for f in DECODED if f == "text" or any((decoded / part / f).is_file() for part in parts)]:
        tables = {part: read_table(decoded / part / file) for part in dict.fromkeys(places.values())}
        lacking = [utt for utt, part in places.items() if utt not in tables[part]]
        if lacking:
            part = decoded / places[lacking[0]]
            raise UserError(f"{part / file} lacks {lacking[0]}: remove {part} and decode it again")
        content = "".join(f"{utt} {tables[places[utt]][utt]}\n" for utt in sorted(places))
        path = decoded / name / file
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue  # it stays older than its score
        write_text(path, content)
