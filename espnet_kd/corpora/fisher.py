"""Fisher English (LDC2004T19, LDC2005T19): the transcripts alone, text for a language model; licensed.

::

    fe_03_p1_tran/data/trans/000/fe_03_00001.txt     # fe_03_00001.sph
                                                     3.76 5.54 A: and i generally prefer

Lines with ``((``, which the transcribers did not understand, are left out, and noises have Switchboard's names, as in
ESPnet's recipe for Switchboard.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.corpora.prepare import warn
from espnet_kd.corpora.telephone import find_files, numbered_lines
from espnet_kd.errors import UserError
from espnet_kd.files import read_table, write_table

CALLS = 11699
NAME = re.compile(r"fe_03_\d{5}\.txt", re.IGNORECASE)
LINE = re.compile(r"([0-9.]+)\s+([0-9.]+) ([AB]):\s*(\S.*)")
NOISES = {"laugh": "laughter"} | dict.fromkeys(("sigh", "cough", "mn", "breath", "lipsmack"), "noise")
MARKED = re.compile(rf"\[({'|'.join(NOISES)})\]")


def main(argv: list[str] | None = None) -> None:
    """Run ``prepare fisher ROOT [ROOT ...] DST [--with TEXT]``.

    Writes DST/train_fisher/text, and DST/lm_train.txt: this text, and that of the training set.
    """
    parser = command_parser("prepare fisher", __doc__.splitlines()[0])
    parser.add_argument("roots", nargs="+", type=Path, help="directories with fe_03_p1_tran and fe_03_p2_tran")
    parser.add_argument("dst", type=Path, help="directory to write train_fisher/text and lm_train.txt into")
    parser.add_argument("--with", dest="others", nargs="*", default=[], type=Path, help="further texts for lm_train.txt")
    args = parser.parse_args(argv)
    files = {path.name.lower(): path for path in find_files(args.roots) if NAME.fullmatch(path.name)}
    found = {name.removesuffix(".txt"): path for name, path in files.items()}
    if not found:
        raise UserError("there is no fe_03_NNNNN.txt below the directories given: give those of LDC2004T19 and LDC2005T19")
    if len(found) != CALLS:
        warn(f"{len(found)} calls, the corpus has {CALLS}")
    text = {name: words for call, path in sorted(found.items()) for name, words in read_transcript(call, path)}
    together = dict(text)
    for path in args.others:
        together |= read_table(path)
    (args.dst / "train_fisher").mkdir(parents=True, exist_ok=True)
    write_table(args.dst / "train_fisher/text", text)
    write_table(args.dst / "lm_train.txt", together)
    print(f"{args.dst / 'lm_train.txt'}: {len(text)} lines of {len(found)} calls, {len(together)} with other texts")


def read_transcript(call: str, path: Path) -> Iterator[tuple[str, str]]:
    """Yield id and words of the lines of a transcript.

    Raises:
        UserError: a line has another form.
    """
    for where, line in numbered_lines(path):
        if line.startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if match is None:
            if re.fullmatch(r"[0-9.]+\s+[0-9.]+ [AB]:\s*", line.strip() + " "):
                continue  # without words
            raise UserError(f"{where}: expected `START END SIDE: WORDS`, not {line.strip()[:60]!r}")
        if "((" in match[4]:
            continue
        try:
            start, end = (int(float(time) * 100) for time in match.group(1, 2))
        except ValueError:
            raise UserError(f"{where}: {match[1]} and {match[2]} are not times in seconds") from None
        yield f"{call}-{match[3]}-{start:06d}-{end:06d}", plain(match[4])


def plain(words: str) -> str:
    """Return a line with Switchboard's names of noises, and acronyms, ``i._b._m.``, as separate letters."""
    text = MARKED.sub(lambda match: f"[{NOISES[match[1]]}]", words)
    return " ".join(text.replace("._", " ").replace(".", "").split())
