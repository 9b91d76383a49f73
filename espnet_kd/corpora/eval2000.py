"""Hub5'00 English, the usual test set of Switchboard: 20 calls each of Switchboard and CallHome, licensed.

LDC2002S09 has the audio and the segments, LDC2002T43 the reference and the rules of scoring::

    .../english/{en_4156,sw_4390,...}.sph      two channels of mu-law, 40 files
    .../english/hub5e_00.pem                   en_4156 A unknown_speaker 301.85 302.48
    .../reference/hub5e00.english.000405.stm   en_4156 A en_4156_A 301.85 302.48 <O,en,F,en-F>  OH YEAH
    .../reference/en20000405_hub5.glm          rules of equal words
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.corpora.prepare import Tally, warn
from espnet_kd.corpora.telephone import (
    LONGEST_CALL,
    SIDES,
    Recording,
    add_unpacked,
    find_files,
    find_one,
    find_recordings,
    numbered_lines,
)
from espnet_kd.data.datadir import Seconds, Utterance, lock_data_dirs, write_data_dir
from espnet_kd.errors import UserError

CALLS = 40
AUDIO_NAME = re.compile(r"((?:en|sw)_\d{4})")
PEM, STM, GLM = "hub5e_00.pem", "hub5e00.english.000405.stm", "en20000405_hub5.glm"
MARGIN: Seconds = 0.1

COMMENT = ";;"
IGNORE = "IGNORE_TIME_SEGMENT_IN_SCORING"
# <B_ASIDE>, (%HESITATION); words between two of them are spoken.
UNSPOKEN = re.compile(r"<[^<>]*>|\(%[^()]*\)|%\S+")
WORD = re.compile(r"[a-z0-9'&-]+")


@dataclass(frozen=True)
class Segment:
    """One line of a PEM or STM file.

    Attributes:
        where: file and line.
        call: as in ``en_4156``.
        side: "A" or "B".
        words: of the reference; empty in a PEM.
    """

    where: str
    call: str
    side: str
    start: Seconds
    end: Seconds
    words: str = ""

    @property
    def speaker(self) -> str:
        """The speaker, ``en_4156-A``."""
        return f"{self.call}-{self.side}"

    @property
    def id(self) -> str:
        """The id, ``en_4156-A_030185-030248``; times in hundredths of a second, truncated as in Kaldi."""
        return f"{self.speaker}_{int(self.start * 100):06d}-{int(self.end * 100):06d}"

    @property
    def is_ignored(self) -> bool:
        """True if the segment is not scored."""
        return IGNORE in self.words.upper()


def main(argv: list[str] | None = None) -> None:
    """Run ``prepare eval2000 ROOT [ROOT ...] DST``.

    Writes DST/eval2000, with ``stm`` and ``glm`` for ``espnet-kd score-eval2000``.
    """
    parser = command_parser("prepare eval2000", __doc__.splitlines()[0])
    parser.add_argument("roots", nargs="+", type=Path, help="directories with the speech and the transcripts")
    parser.add_argument("dst", type=Path, help="directory to write eval2000 into")
    add_unpacked(parser)
    args = parser.parse_args(argv)
    files = find_files(args.roots)
    recordings = find_recordings(files, AUDIO_NAME, unpacked=args.unpacked)
    pem, stm, glm = (find_one(files, name, what) for name, what in (
        (PEM, "the segments, of LDC2002S09"), (STM, "the reference, of LDC2002T43"), (GLM, "of LDC2002T43"),
    ))  # fmt: skip
    if not recordings:
        raise UserError(
            "there is no en_NNNN.sph or sw_NNNN.sph below the directories given: give that of LDC2002S09"
        )
    if len(recordings) != CALLS:
        warn(f"{len(recordings)} calls with {2 * len(recordings)} sides, the corpus has {CALLS}")
    segments = read_pem(pem)
    reference = read_stm(stm)
    check_segments(segments, reference, stm, pem)
    utterances = make_utterances(reference, add_margins(segments.values(), MARGIN), recordings)
    without_audio = {s.call for s in reference.values()} - recordings.keys()
    extra_files = {"stm": repaired_stm(stm, without=without_audio).encode("latin-1"), "glm": glm.read_bytes()}
    with lock_data_dirs(args.dst):
        write_data_dir(args.dst / "eval2000", utterances, extra_files)
    sides = len({u.speaker for u in utterances})
    print(f"{args.dst / 'eval2000'}: {len(utterances)} utterances, {sides} conversation sides")


def read_pem(path: Path) -> dict[str, Segment]:
    """Read a PEM file, lines ``en_4156 A unknown_speaker 301.85 302.48``, as id -> segment.

    Raises:
        UserError: a line is malformed.
    """
    segments = {}
    for where, line in numbered_lines(path):
        if line.lstrip().startswith(COMMENT):
            continue
        fields = line.split()
        if len(fields) != 5:
            raise UserError(f"{where}: expected `CALL SIDE SPEAKER START END`, not {line.strip()[:60]!r}")
        segment = _parse_segment(where, fields)
        segments[segment.id] = segment  # a PEM may list a segment twice
    return segments


def read_stm(path: Path) -> dict[str, Segment]:
    """Read an STM file, lines ``en_4156 A en_4156_A 357.64 359.64 <O,en,F,en-F>  HE IS``, as id -> segment.

    Raises:
        UserError: a line is malformed, or a segment occurs twice.
    """
    return parse_stm(numbered_lines(path))


def parse_stm(lines: Iterable[tuple[str, str]]) -> dict[str, Segment]:
    """Parse the lines of an STM file, each with its place, as ``read_stm``."""
    segments: dict[str, Segment] = {}
    for where, line in lines:
        if line.lstrip().startswith(COMMENT):
            continue
        fields = line.split(None, 6)
        if len(fields) < 6 or not re.fullmatch(r"<\S*>", fields[5]):
            form = "CALL SIDE SPEAKER START END <LABELS> WORDS"
            raise UserError(f"{where}: expected `{form}`, not {line.strip()[:60]!r}")
        segment = replace(_parse_segment(where, fields), words=fields[6] if len(fields) > 6 else "")
        if segment.id in segments:
            raise UserError(
                f"{where}: {segment.id} occurs a second time, first at {segments[segment.id].where}"
            )
        segments[segment.id] = segment
    return segments


def _parse_segment(where: str, fields: list[str]) -> Segment:
    call, side, _, start, end = fields[:5]
    if side not in SIDES:
        raise UserError(f"{where}: the side is {side}, not A or B")
    try:
        segment = Segment(where, call, side, float(start), float(end))
    except ValueError:
        raise UserError(f"{where}: {start} and {end} are not times in seconds") from None
    if not 0 <= segment.start <= segment.end < LONGEST_CALL:
        raise UserError(f"{where}: runs from {start} to {end} s: 0 <= start <= end is needed")
    return segment


def check_segments(
    segments: Mapping[str, Segment], reference: Mapping[str, Segment], stm: Path, pem: Path
) -> None:
    """Check that every scored reference has a segment; warn of segments without a reference.

    Raises:
        UserError: a reference that is scored has no segment, so it would not be recognised.
    """
    for name, segment in reference.items():
        if name not in segments and not segment.is_ignored:
            raise UserError(
                f"{segment.where}: {pem} has no segment with the side and times of {name}: use the "
                "files of one release"
            )
    if without := [s for name, s in segments.items() if name not in reference]:
        warn(f"{len(without)} segments are not in {stm} and are left out, the first is {without[0].where}")


def add_margins(segments: Iterable[Segment], margin: Seconds) -> dict[str, tuple[Seconds, Seconds]]:
    """Widen segments by a margin on both sides, as Kaldi's extend_segments.pl does.

    Where the pause between two segments of a speaker is shorter than two margins, each gets half of it. Where
    two segments overlap, the overlapping ends are kept.

    Returns:
        id -> start and end, rounded to hundredths of a second.
    """
    sides: dict[str, list[Segment]] = {}
    for segment in sorted(segments, key=lambda s: s.id):
        sides.setdefault(segment.speaker, []).append(segment)
    widened = {}
    for side in sides.values():
        side.sort(key=lambda s: s.start)
        starts, ends = [s.start for s in side], [s.end for s in side]
        starts[0] = max(0.0, starts[0] - margin)
        ends[-1] += margin
        for i in range(len(side) - 1):
            if ends[i] <= starts[i + 1]:
                share = min(margin, 0.5 * (starts[i + 1] - ends[i]))
                ends[i] += share
                starts[i + 1] -= share
        for segment, start, end in zip(side, starts, ends, strict=True):
            widened[segment.id] = (round(start, 2), round(end, 2))
    return widened


def make_utterances(
    reference: Mapping[str, Segment],
    times: Mapping[str, tuple[Seconds, Seconds]],
    recordings: Mapping[str, Recording],
) -> list[Utterance]:
    """Make the utterances to recognise and print how many segments are left out, by reason.

    Args:
        reference: id -> segment of the STM.
        times: id -> start and end with margins.
        recordings: call -> recording.
    """
    dropped, odd = Tally(), Tally()
    utterances = []
    for name, segment in reference.items():
        words = [] if segment.is_ignored else plain_reference(segment.words)
        has_audio = words and segment.call in recordings
        span = recordings[segment.call].clip(*times[name]) if has_audio else None
        if reason := _reason_to_drop(segment, words, span, recordings):
            dropped.add(reason, segment.where)
            continue
        assert span is not None  # else there is a reason
        for word in words:
            if not WORD.fullmatch(word):
                odd.add(f"words with an unknown mark, {word}", segment.where)
        audio, channel = recordings[segment.call].path, SIDES.index(segment.side)
        text, side, (start, end) = " ".join(words), segment.speaker, span
        utterances.append(Utterance(name, side, audio, text, side, start, end, channel=channel))
    print(f"dropped: {dropped}")
    if odd:
        warn(f"kept: {odd}")
    return utterances


def plain_reference(words: str) -> list[str]:
    """Return the words of a reference in lower case, without marks.

    Removes ``(%HESITATION)`` and ``<B_ASIDE>``, and the brackets of fragments, ``(TH-)``, and optional words.
    """
    return UNSPOKEN.sub(" ", words).replace("(", " ").replace(")", " ").lower().split()


def _reason_to_drop(
    segment: Segment, words: list[str], span: tuple[Seconds, Seconds] | None, calls: Container[str]
) -> str | None:
    """Return why a segment does not become an utterance; None if it does."""
    if segment.is_ignored:
        return "that are not scored"
    if not words:
        return "without a word that must be recognised"
    if segment.call not in calls:
        return "without audio, left out of stm, too,"
    return "after the end of the audio" if span is None else None


def repaired_stm(path: Path, without: Iterable[str] = ()) -> str:
    """Return the text of an STM without the mistakes on which hubscr.pl fails, and without some calls."""
    return repaired((line for _, line in numbered_lines(path)), without)


def repaired(stm: Iterable[str], without: Iterable[str] = ()) -> str:
    """Return the lines of an STM as ``repaired_stm`` does."""
    left_out, lines = frozenset(without), []
    for line in stm:
        if line.lstrip().startswith(COMMENT) or line.split()[0] not in left_out:
            line = line.replace("((", "(", 1).replace("<B_ASIDE>", "").replace("<E_ASIDE>", "")
            lines.append(line + "\n")
    return "".join(lines)
