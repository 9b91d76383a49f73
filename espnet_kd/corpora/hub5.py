"""The segments (PEM) and the reference (STM) of a Hub5 evaluation."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from espnet_kd.corpora.datadir import Seconds
from espnet_kd.corpora.lines import numbered_lines
from espnet_kd.corpora.recordings import SIDES
from espnet_kd.errors import UserError

COMMENT = ";;"
LONGEST: Seconds = 1e6
IGNORE = "IGNORE_TIME_SEGMENT_IN_SCORING"
# <B_ASIDE>, (%HESITATION): each by itself, nothing between two of them.
UNSPOKEN = re.compile(r"<[^<>]*>|\(%[^()]*\)|%\S+")
WORD = re.compile(r"[a-z0-9'&-]+")


@dataclass(frozen=True)
class Segment:
    """A line of either file.

    Attributes:
        where: file and line.
        call: as in ``en_4156``.
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
        """The side of the call, ``en_4156-A``."""
        return f"{self.call}-{self.side}"

    @property
    def id(self) -> str:
        """``en_4156-A_030185-030248``: hundredths of a second, cut off and not rounded as in Kaldi."""
        return f"{self.speaker}_{int(self.start * 100):06d}-{int(self.end * 100):06d}"

    @property
    def ignored(self) -> bool:
        """True if it is not scored."""
        return IGNORE in self.words.upper()


def read_pem(path: Path) -> dict[str, Segment]:
    """Segments by id, from lines ``en_4156 A unknown_speaker 301.85 302.48``.

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
        segment = _segment(where, fields)
        segments[segment.id] = segment  # a segment that is listed twice is the same one
    return segments


def read_stm(path: Path) -> dict[str, Segment]:
    """Segments by id, from lines ``en_4156 A en_4156_A 357.64 359.64 <O,en,F,en-F>  HE IS A POLICE OFFICER``.

    Raises:
        UserError: a line is malformed, or a segment occurs twice.
    """
    segments: dict[str, Segment] = {}
    for where, line in numbered_lines(path):
        if line.lstrip().startswith(COMMENT):
            continue
        fields = line.split(None, 6)
        if len(fields) < 6 or not re.fullmatch(r"<\S*>", fields[5]):
            form = "CALL SIDE SPEAKER START END <LABELS> WORDS"
            raise UserError(f"{where}: expected `{form}`, not {line.strip()[:60]!r}")
        segment = replace(_segment(where, fields), words=fields[6] if len(fields) > 6 else "")
        if segment.id in segments:
            raise UserError(f"{where}: {segment.id} is there already, at {segments[segment.id].where}")
        segments[segment.id] = segment
    return segments


def plain_reference(words: str) -> list[str]:
    """The words of a reference, lower case, without what need not be recognised.

    ``(%HESITATION)`` and ``<B_ASIDE>`` go; of other optional words and of fragments, ``(TH-)``, the brackets.
    """
    return UNSPOKEN.sub(" ", words).replace("(", " ").replace(")", " ").lower().split()


def widen(segments: Iterable[Segment], margin: Seconds) -> dict[str, tuple[Seconds, Seconds]]:
    """Start and end by id with a margin, which two neighbours on one side share if they are near.

    Segments that overlap already keep the ends that do; times are rounded to hundredths, as Kaldi's
    extend_segments.pl does it.
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


def mended_stm(path: Path, without: Iterable[str] = ()) -> str:
    """The reference for the scorer: without the slips that upset hubscr.pl, and without some calls."""
    left_out, lines = frozenset(without), []
    for _, line in numbered_lines(path):
        if line.lstrip().startswith(COMMENT) or line.split()[0] not in left_out:
            line = line.replace("((", "(", 1).replace("<B_ASIDE>", "").replace("<E_ASIDE>", "")
            lines.append(line + "\n")
    return "".join(lines)


def _segment(where: str, fields: list[str]) -> Segment:
    call, side, _, start, end = fields[:5]
    if side not in SIDES:
        raise UserError(f"{where}: the side is {side}, not A or B")
    try:
        segment = Segment(where, call, side, float(start), float(end))
    except ValueError:
        raise UserError(f"{where}: {start} and {end} are not times in seconds") from None
    if not 0 <= segment.start <= segment.end < LONGEST:
        raise UserError(f"{where}: runs from {start} to {end} s: 0 <= start <= end is needed")
    return segment
