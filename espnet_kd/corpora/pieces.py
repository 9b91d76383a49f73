"""Cutting long recordings into pieces, as times in seconds; nothing here touches audio."""

import math
from collections.abc import Sequence

Seconds = float
Region = tuple[Seconds, Seconds]
ROUNDING: Seconds = 1.0  # by which voice activity may run past the end of a recording


def cut_by_length(duration: Seconds, longest: Seconds) -> list[Region]:
    """Pieces of one length, one after the other; the last has what is left."""
    count = math.ceil(duration / longest)
    return [(i * longest, min((i + 1) * longest, duration)) for i in range(count)]


def cut_by_speech(regions: Sequence[Region], longest: Seconds, pause: Seconds) -> list[Region]:
    """Join neighbouring regions of speech as long as the piece, pauses included, is not too long.

    Args:
        regions: sorted by start; they may overlap. One that is too long is divided into equal parts first.
        longest: length that no piece exceeds.
        pause: silence across which regions are joined.
    """
    pieces: list[Region] = []
    for start, end in (part for region in regions for part in _divide(region, longest)):
        first, last = pieces[-1] if pieces else (-math.inf, -math.inf)
        if start - last <= pause and max(last, end) - first <= longest:
            pieces[-1] = (first, max(last, end))
        else:
            pieces.append((start, end))
    return pieces


def check_regions(regions: object, duration: Seconds) -> list[Region]:
    """Regions as JSON has them, sorted by start, and cut off where the recording ends.

    Raises:
        ValueError: they are no list of [start, end], or belong to a longer recording.
    """
    if not isinstance(regions, list):
        raise ValueError(f"a list of [start, end] in seconds is needed, not {regions!r:.60}")
    checked: list[Region] = []
    for region in regions:
        try:
            start, end = map(float, region)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"[start, end] in seconds is needed, not {region!r:.60}") from None
        if not 0 <= start < end <= duration + ROUNDING or start >= duration:
            raise ValueError(
                f"[{start:g}, {end:g}] does not lie in the recording, which has {duration:g} seconds"
            )
        checked.append((start, min(end, duration)))
    return sorted(checked)


def _divide(region: Region, longest: Seconds) -> list[Region]:
    start, end = region
    count = math.ceil((end - start) / longest)
    edges = [*(start + (end - start) * i / count for i in range(count)), end]
    return list(zip(edges, edges[1:], strict=False))
