"""``espnet-kd score-eval2000``: compute the official WER of Hub5'00 or RT-03 by NIST's hubscr.pl.

Where hubscr.pl is not installed, jiwer counts the words that pass the same filter, but it knows neither the
rules of equal words (GLM) nor optional words, so the numbers cannot be compared with published ones. The
scores of Switchboard, CallHome (of Hub5'00), Fisher (of RT-03) and of all are written beside the decoded
set as DIR_swbd, DIR_callhm, DIR_fsh and DIR_all.
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

SCORERS = ("auto", "hubscr", "jiwer")
SUBSETS = {"swbd": "sw_", "callhm": "en_", "fsh": "fsh_", "all": ""}  # by the first letters of a call

UTTERANCE = re.compile(r"(?P<call>\S+)-(?P<side>[AB])_(?P<start>\d{1,9})-(?P<end>\d{1,9})")
NOISES = frozenset("[noise] [laughter] [vocalized-noise] <unk>".split())
# All that the GLM of Hub5'00 maps to a hesitation; in the reference hesitations are optional.
HESITATIONS = frozenset("uh um eh mm hm ah huh ha er oof hee ach eee ew".split())

DEBIAN_HUBSCR = Path("/usr/lib/sctk/bin/hubscr.pl")  # not in the PATH there
HUBSCR_OPTIONS = "-V -l english -h hub5 -g glm -r stm hyp.ctm"
REPORT = "hyp.ctm.filt.sgml"
SGML_PATH = re.compile(r'<PATH id="\((?P<id>[^)"]*)\)".*>\n(?P<tokens>.*)\n</PATH>')
SGML_TOKEN = re.compile(r'(?P<mark>[CSDI]),(?:"(?P<ref>[^"]*)")?,(?:"(?P<hyp>[^"]*)")?,[^:]*')
CHUNK_TYPES = {"C": "equal", "S": "substitute", "D": "delete", "I": "insert"}
TOTAL = re.compile(r"Percent Total Error.*?\(\s*(\d+)\).*?Ref\. words\s*=\s*\(\s*(\d+)\)", re.DOTALL)


def main(argv: list[str] | None = None) -> None:
    """Run ``score-eval2000 --data data/eval2000 DIR``."""
    p = command_parser("score-eval2000")
    p.add_argument("dir", type=Path, help="directory of a decoded set, with the hypotheses in `text`")
    p.add_argument(
        "--data",
        type=Path,
        required=True,
        help="directory that `prepare eval2000` wrote, with text, stm and glm",
    )
    p.add_argument("--scorer", choices=SCORERS, default=SCORERS[0], help="default: %(default)s")
    p.add_argument(
        "--hubscr",
        type=Path,
        help="path of hubscr.pl (default: found in the PATH or where Debian installs it)",
    )
    args = p.parse_args(argv)
    reference, hypothesis = read_table(args.data / "text"), read_table(args.dir / "text")
    join(reference, hypothesis, args.data / "text", args.dir / "text")
    if program := find_scorer(args.scorer, args.hubscr):
        words = score_by_hubscr(program, args.data, hypothesis, args.dir.with_name(args.dir.name + "_hubscr"))
        print(f"scored by {program} (NIST SCTK), with stm and glm of {args.data}")
    else:
        words = score_by_jiwer(reference, hypothesis)
        print(
            "scored by jiwer, not comparable with published numbers: install hubscr.pl (Debian package sctk)"
        )
    texts = [without_optional(a) for a in words.values()]
    characters = align([left for left, _ in texts], [right for _, right in texts], "character")
    aligned = {"wer": words, "cer": dict(zip(words, characters, strict=True))}
    for subset, prefix in SUBSETS.items():
        utterances = [utt for utt in words if utt.startswith(prefix)]
        if any(words[utt].reference for utt in utterances):
            out = args.dir.with_name(f"{args.dir.name}_{subset}")
            part = {kind: {utt: rows[utt].counts for utt in utterances} for kind, rows in aligned.items()}
            print(summary(out.name, alignment.write_score(out, part)))


def find_scorer(scorer: str, path: Path | None) -> Path | None:
    """Return the path of hubscr.pl, or None to score by jiwer.

    Args:
        scorer: one of ``SCORERS``.
        path: of hubscr.pl; None to look for it.

    Raises:
        UserError: hubscr.pl is required and missing.
    """
    if scorer == "jiwer":
        return None
    found = path or find_hubscr()
    if found is None and scorer == "hubscr":
        raise UserError(
            "hubscr.pl is not installed: `apt-get install sctk`, or give --hubscr PATH or --scorer jiwer"
        )
    if found is not None and not found.is_file():
        raise UserError(f"{found} does not exist: give the path of hubscr.pl")
    return found


def find_hubscr() -> Path | None:
    """Return the path of hubscr.pl; None if it is not installed."""
    found = shutil.which("hubscr.pl")
    return Path(found) if found else DEBIAN_HUBSCR if DEBIAN_HUBSCR.is_file() else None


def score_by_hubscr(
    program: Path, data: Path, hypothesis: Mapping[str, str], out: Path
) -> dict[str, Aligned]:
    """Score by hubscr.pl, which writes its reports into ``out``; return segment of the STM -> alignment."""
    text = ctm_text(hypothesis)
    with atomic_dir(out) as work:
        (work / "hyp.ctm").write_text(text, encoding="utf-8")
        for name in ("stm", "glm"):
            if not (data / name).is_file():
                raise UserError(f"{data}/{name} does not exist: `prepare eval2000` writes it")
            shutil.copyfile(data / name, work / name)
        return run_hubscr(program.absolute(), work)


def ctm_text(hypotheses: Mapping[str, str]) -> str:
    """Return a CTM, a line ``en_4156 A 3.01 0.29 YEAH`` per scored word, sorted by call, side and time.

    Args:
        hypotheses: utterance id -> text.
    """
    lines = []
    for utt in sorted(hypotheses):
        call, side, start, end = parse_id(utt)
        for begin, duration, word in spread_words(hypotheses[utt].split(), start, end):
            if is_scored(word):
                lines.append(f"{call} {side} {begin / 100:.2f} {duration / 100:.2f} {word.upper()}\n")
    return "".join(lines)


def parse_id(utterance: str) -> tuple[str, str, int, int]:
    """Split an id, ``en_4156-A_030185-030248``, into call, side, start and end in hundredths of a second.

    Raises:
        UserError: the id has another form.
    """
    match = UTTERANCE.fullmatch(utterance)
    if match is None:
        raise UserError(f"{utterance} is not the id of an utterance of Hub5: expected `CALL-SIDE_START-END`")
    return match["call"], match["side"], int(match["start"]), int(match["end"])


def spread_words(words: Iterable[str], start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """Yield (begin, duration, word) with the time of a segment shared equally among its words.

    All times are whole hundredths of a second; the last word takes the remainder of the division.

    Args:
        words: words of the segment.
        start: begin of the segment.
        end: end of the segment.
    """
    words = list(words)
    for i, word in enumerate(words):
        step = (end - start) // len(words)
        begin = start + i * step
        yield begin, (end - begin if i == len(words) - 1 else step), word


def is_scored(word: str) -> bool:
    """Return False for noises, hesitations and fragments (``th-``), which are optional in the reference.

    ESPnet's recipe filters the same words, but also removes SLAUGHTER, because it contains LAUGHTER.
    """
    word = word.lower()
    return word not in NOISES and word not in HESITATIONS and not word.endswith("-")


def run_hubscr(hubscr: Path, directory: Path) -> dict[str, Aligned]:
    """Score ``hyp.ctm`` in a directory against its ``stm`` by the rules of its ``glm``.

    hubscr.pl writes its reports into the directory.

    Returns:
        Segment, as in ``en_4156_a-000``, -> alignment. An optional word that is missing in the hypothesis
        is a hit, as NIST counts.

    Raises:
        UserError: hubscr.pl fails; with its error message.
    """
    command = [str(hubscr), "-p", str(hubscr.parent), *HUBSCR_OPTIONS.split()]
    try:
        with (directory / "hubscr.log").open("w") as log:
            status = subprocess.run(command, cwd=directory, stdout=log, stderr=log).returncode
    except OSError as e:
        raise UserError(f"{hubscr} does not run: {e.strerror}") from None
    if status or not (directory / REPORT).is_file():
        lines = (directory / "hubscr.log").read_text(errors="replace").split("\n")
        said = next((line for line in lines if line.startswith("Error")), lines[-1])
        raise UserError(f"{hubscr} failed with status {status}: {said}; `--scorer jiwer` scores without it")
    aligned = read_report((directory / REPORT).read_text(encoding="latin-1"))
    _check_totals((directory / "hyp.ctm.filt.dtl").read_text(encoding="latin-1"), aligned)
    return aligned


def read_report(text: str) -> dict[str, Aligned]:
    """Read the alignment of each segment from an SGML report of sclite."""
    return {path["id"]: _parse_alignment(path["tokens"]) for path in SGML_PATH.finditer(text)}


def _parse_alignment(tokens: str) -> Aligned:
    """Parse a line such as ``C,"yes","yes",0.1+0.2:D,"i",,:C,"(th-)","",0.0+0.0:I,,"uh",0.3+0.4``."""
    reference: list[str] = []
    hypothesis: list[str] = []
    chunks = []
    for token in SGML_TOKEN.finditer(tokens):
        before = len(reference), len(hypothesis)
        if token["mark"] != "I":
            reference.append(token["ref"] or "")
        if token["mark"] != "D":
            hypothesis.append(token["hyp"] or "")
        bounds = (before[0], len(reference), before[1], len(hypothesis))
        chunks.append(AlignmentChunk(CHUNK_TYPES[token["mark"]], *bounds))
    return Aligned(reference, hypothesis, chunks)


def _check_totals(report: str, aligned: dict[str, Aligned]) -> None:
    """Check that the alignments, as we read them, add up to the totals that hubscr.pl reports."""
    total = sum((a.counts for a in aligned.values()), Counts())
    match = TOTAL.search(report)
    if match is None or (int(match[1]), int(match[2])) != (total.errors, total.reference):
        theirs = f"{match[1]}/{match[2]}" if match else "nothing"
        ours = f"{total.errors}/{total.reference}"
        raise UserError(
            f"hubscr.pl counts {theirs} errors/words, but its alignments add up to {ours}: use "
            "`--scorer jiwer`"
        )


def score_by_jiwer(reference: Mapping[str, str], hypothesis: Mapping[str, str]) -> dict[str, Aligned]:
    """Score by jiwer, scored words only, without regard to case; return utterance -> alignment."""
    left, right = ([scored_words(side[utt].lower()) for utt in reference] for side in (reference, hypothesis))
    return dict(zip(reference, align(left, right, "word"), strict=True))


def scored_words(text: str) -> str:
    """Return a text without the words that are not scored."""
    return " ".join(word for word in text.split() if is_scored(word))


def without_optional(aligned: Aligned) -> tuple[str, str]:
    """Return reference and hypothesis without optional words, ``(th-)``, and what is aligned with them."""
    pairs = [(left, right) for left, right, _ in aligned.pairs() if not left.startswith("(")]
    left, right = (" ".join(filter(None, side)) for side in zip(*pairs, strict=True)) if pairs else ("", "")
    return left, right


if __name__ == "__main__":
    main()
