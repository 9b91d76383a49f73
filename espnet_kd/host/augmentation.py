"""What we rely on in ESPnet's SpecAugment, under names of our own.

Relied upon, and tried by test/integration/test_consistency_training.py: ``SpecAug`` has ``time_warp``,
``freq_mask`` and ``time_mask``, modules or None, of which its ``forward`` runs those that are there; a mask
has ``num_mask``, the number of masks of each utterance, and draws them for every utterance of a batch by
itself.
"""

import math
from typing import Any


def take_time_warp(specaug: Any) -> Any | None:
    """Remove the time warp from a SpecAugment and return it; None without one."""
    warp, specaug.time_warp = specaug.time_warp, None
    return warp


def has_masks(specaug: Any) -> bool:
    """Return True if a SpecAugment masks time or frequencies."""
    return specaug.time_mask is not None or specaug.freq_mask is not None


def has_time_masks(specaug: Any) -> bool:
    """Return True if a SpecAugment masks time."""
    return specaug.time_mask is not None


def more_time_masks(specaug: Any, factor: float) -> int:
    """Multiply the number of time masks of each utterance, half a mask rounded up; return the new number."""
    if specaug.time_mask is None:
        return 0
    specaug.time_mask.num_mask = max(1, math.floor(factor * specaug.time_mask.num_mask + 0.5))
    return int(specaug.time_mask.num_mask)
