"""``espnet-kd score-eval2000``: the official WER of Hub5'00, by NIST's hubscr.pl if it is there.

Without it, jiwer counts after the same simple filter: no rules of equal words (GLM), no optional words, so
the numbers cannot be compared with published ones. Scores of Switchboard, CallHome and both lie beside the
decoded set, as those of sets of their own: DIR_swbd, DIR_callhm, DIR_all.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from jiwer import AlignmentChunk

from espnet_kd.command_line import command_parser
from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir, read_table
from espnet_kd.scoring import alignment
from espnet_kd.scoring.alignment import Aligned, Counts, align, join
from espnet_kd.scoring.score import summary

UTTERANCE = re.compile(r"(?P<call>\S+)-(?P<side>[AB])_(?P<start>\d{1,9})-(?P<end>\d{1,9})")
NOISES = frozenset("[noise] [laughter] [vocalized-noise] <unk>".split())
# All that the GLM of Hub5'00 maps to a hesitation; in the reference hesitations are optional.
HESITATIONS = frozenset("uh um eh mm hm ah huh ha er oof hee ach eee ew".split())


def scored(word: str) -> bool:
    """False for noises, hesitations and fragments (``th-``), which are optional in the reference.

    The filter of ESPnet's recipe, but that one looks for LAUGHTER anywhere and so takes out SLAUGHTER, too.
    """
    word = word.lower()
    return word not in NOISES and word not in HESITATIONS and not word.endswith("-")


def filtered(text: str) -> str:
    """The words that are scored."""
    return " ".join(word for word in text.split() if scored(word))


def render(hypotheses: Mapping[str, str]) -> str:
    """The CTM, a line ``en_4156 A 3.01 0.29 YEAH`` a word that is scored, by call, side and time.

    Args:
        hypotheses: text by utterance id.
    """
    lines = []
    for utt in sorted(hypotheses):
        call, side, start, end = parse(utt)
        for begin, duration, word in spread(hypotheses[utt].split(), start, end):
            if scored(word):
                lines.append(f"{call} {side} {begin / 100:.2f} {duration / 100:.2f} {word.upper()}\n")
    return "".join(lines)


def spread(words: Iterable[str], start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """(begin, duration, word), the words side by side and equally long, the last one longer by what is left.

    Args:
        words: of a segment.
        start: of the segment; all times are whole hundredths of a second.
        end: of the segment.
    """
    words = list(words)
    for i, word in enumerate(words):
        step = (end - start) // len(words)
        begin = start + i * step
        yield begin, (end - begin if i == len(words) - 1 else step), word


def parse(utterance: str) -> tuple[str, str, int, int]:
    """Call, side, start and end in hundredths of a second, of ``en_4156-A_030185-030248``.

    Raises:
        UserError: it is another kind of id.
    """
    match = UTTERANCE.fullmatch(utterance)
    if match is None:
        raise UserError(f"{utterance} is no utterance of Hub5: expected `CALL-SIDE_START-END`")
    return match["call"], match["side"], int(match["start"]), int(match["end"])


DEBIAN = Path("/usr/lib/sctk/bin/hubscr.pl")  # not in the PATH there
OPTIONS = "-V -l english -h hub5 -g glm -r stm hyp.ctm"
REPORT = "hyp.ctm.filt.sgml"
PATH = re.compile(r'<PATH id="\((?P<id>[^)"]*)\)".*>\n(?P<tokens>.*)\n</PATH>')
TOKEN = re.compile(r'(?P<mark>[CSDI]),(?:"(?P<ref>[^"]*)")?,(?:"(?P<hyp>[^"]*)")?,[^:]*')
TYPES = {"C": "equal", "S": "substitute", "D": "delete", "I": "insert"}
TOTAL = re.compile(r"Percent Total Error.*?\(\s*(\d+)\).*?Ref\. words\s*=\s*\(\s*(\d+)\)", re.DOTALL)


def find() -> Path | None:
    """Where hubscr.pl is, None if it is not installed."""
    found = shutil.which("hubscr.pl")
    return Path(found) if found else DEBIAN if DEBIAN.is_file() else None


def run(hubscr: Path, directory: Path) -> dict[str, Aligned]:
    """Score ``hyp.ctm`` in a directory against ``stm`` by the rules of ``glm``; the reports lie beside.

    Returns:
        Alignment by segment, ``en_4156_a-000``; optional words that were not said are hits, as NIST counts.

    Raises:
        UserError: it fails; with its last words.
    """
    command = [str(hubscr), "-p", str(hubscr.parent), *OPTIONS.split()]
    try:
        with (directory / "hubscr.log").open("w") as log:
            status = subprocess.run(command, cwd=directory, stdout=log, stderr=log).returncode
    except OSError as e:
        raise UserError(f"{hubscr} does not run: {e.strerror}") from None
    if status or not (directory / REPORT).is_file():
        lines = (directory / "hubscr.log").read_text(errors="replace").split("\n")
        said = next((line for line in lines if line.startswith("Error")), lines[-1])
        raise UserError(f"{hubscr} failed with status {status}: {said}; `--scorer jiwer` does without it")
    aligned = read_report((directory / REPORT).read_text(encoding="latin-1"))
    _check((directory / "hyp.ctm.filt.dtl").read_text(encoding="latin-1"), aligned)
    return aligned


def read_report(text: str) -> dict[str, Aligned]:
    """The alignments in an SGML report of sclite, by segment."""
    return {path["id"]: _aligned(path["tokens"]) for path in PATH.finditer(text)}


def _aligned(tokens: str) -> Aligned:
    """A line such as ``C,"yes","yes",0.1+0.2:D,"i",,:C,"(th-)","",0.0+0.0:I,,"uh",0.3+0.4``."""
    reference: list[str] = []
    hypothesis: list[str] = []
    chunks = []
    for token in TOKEN.finditer(tokens):
        before = len(reference), len(hypothesis)
        if token["mark"] != "I":
            reference.append(token["ref"] or "")
        if token["mark"] != "D":
            hypothesis.append(token["hyp"] or "")
        bounds = (before[0], len(reference), before[1], len(hypothesis))
        chunks.append(AlignmentChunk(TYPES[token["mark"]], *bounds))
    return Aligned(reference, hypothesis, chunks)


def _check(summary: str, aligned: dict[str, Aligned]) -> None:
    """Our reading of the alignments must give the scorer's own totals."""
    total = sum((a.counts for a in aligned.values()), Counts())
    match = TOTAL.search(summary)
    if match is None or (int(match[1]), int(match[2])) != (total.errors, total.reference):
        theirs = f"{match[1]}/{match[2]}" if match else "nothing"
        ours = f"{total.errors}/{total.reference}"
        raise UserError(f"hubscr.pl counts {theirs}, its alignments add up to {ours}")


SCORERS = ("auto", "hubscr", "jiwer")
SUBSETS = {"swbd": "sw_", "callhm": "en_", "all": ""}  # by the first letters of a call


def main(argv: list[str] | None = None) -> None:
    """``score-eval2000 --data data/eval2000 DIR``."""
    p = command_parser("score-eval2000")
    p.add_argument("dir", type=Path, help="decoded set: its `text` is scored")
    p.add_argument("--data", type=Path, required=True, help="what `prepare eval2000` made: text, stm, glm")
    p.add_argument("--scorer", choices=SCORERS, default=SCORERS[0], help="default: %(default)s")
    p.add_argument("--hubscr", type=Path, help="hubscr.pl (default: in the PATH, or Debian's)")
    args = p.parse_args(argv)
    reference, hypothesis = read_table(args.data / "text"), read_table(args.dir / "text")
    join(reference, hypothesis, args.data / "text", args.dir / "text")
    if program := find_scorer(args.scorer, args.hubscr):
        words = by_hubscr(program, args.data, hypothesis, args.dir.with_name(args.dir.name + "_hubscr"))
        print(f"scored by {program} (NIST SCTK), with stm and glm of {args.data}")
    else:
        words = by_jiwer(reference, hypothesis)
        print("scored by jiwer, not comparable with published numbers: no hubscr.pl (Debian package sctk)")
    texts = [spoken(a) for a in words.values()]
    characters = align([left for left, _ in texts], [right for _, right in texts], "character")
    aligned = {"wer": words, "cer": dict(zip(words, characters, strict=True))}
    for subset, prefix in SUBSETS.items():
        utterances = [utt for utt in words if utt.startswith(prefix)]
        if any(words[utt].reference for utt in utterances):
            out = args.dir.with_name(f"{args.dir.name}_{subset}")
            part = {kind: {utt: rows[utt].counts for utt in utterances} for kind, rows in aligned.items()}
            print(summary(out.name, alignment.write(out, part)))


def find_scorer(scorer: str, path: Path | None) -> Path | None:
    """hubscr.pl, or None for jiwer.

    Raises:
        UserError: it is asked for and is not there.
    """
    if scorer == "jiwer":
        return None
    found = path or find()
    if found is None and scorer == "hubscr":
        raise UserError("hubscr.pl is not installed: `apt-get install sctk`, --hubscr PATH or --scorer jiwer")
    if found is not None and not found.is_file():
        raise UserError(f"{found} does not exist: it is called hubscr.pl")
    return found


def by_hubscr(program: Path, data: Path, hypothesis: Mapping[str, str], out: Path) -> dict[str, Aligned]:
    """Alignments by segment of the STM; the reports of hubscr.pl lie in ``out``."""
    text = render(hypothesis)
    with atomic_dir(out) as work:
        (work / "hyp.ctm").write_text(text, encoding="utf-8")
        for name in ("stm", "glm"):
            if not (data / name).is_file():
                raise UserError(f"{data}/{name} does not exist: `prepare eval2000` writes it")
            shutil.copyfile(data / name, work / name)
        return run(program.absolute(), work)


def by_jiwer(reference: Mapping[str, str], hypothesis: Mapping[str, str]) -> dict[str, Aligned]:
    """Alignments by utterance, of the words that are scored."""
    left, right = ([filtered(side[utt]) for utt in reference] for side in (reference, hypothesis))
    return dict(zip(reference, align(left, right, "word"), strict=True))


def spoken(aligned: Aligned) -> tuple[str, str]:
    """Both texts without the optional words, ``(th-)``, of the reference and what was heard for them."""
    pairs = [(left, right) for left, right, _ in aligned.pairs() if not left.startswith("(")]
    left, right = (" ".join(filter(None, side)) for side in zip(*pairs, strict=True)) if pairs else ("", "")
    return left, right


if __name__ == "__main__":
    main()
