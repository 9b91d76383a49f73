"""Sampling rates as ESPnet's recipes and configurations write them."""

import re
from collections.abc import Mapping
from typing import Any

from espnet_kd.errors import UserError

DEFAULT_RATE = 16000  # of ESPnet's front ends


def parse_rate(text: str) -> int:
    """``16k``, ``22.05k`` or ``16000`` in Hz.

    Raises:
        UserError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(k?)", text.strip().lower())
    hertz = float(match[1]) * (1000 if match[2] else 1) if match else 0
    if not 1 <= hertz <= 1e6 or hertz != round(hertz):
        raise UserError(f"fs {text!r} is not a sampling rate: write 16k or 16000")
    return round(hertz)


def input_rate(config: Mapping[str, Any]) -> int | None:
    """Hz of the speech that a model of this configuration hears; None if its front end does not say.

    Raises:
        UserError: ``fs`` of frontend_conf is no sampling rate.
    """
    fs = (config.get("frontend_conf") or {}).get("fs")
    if fs is None:
        return DEFAULT_RATE if config.get("frontend", "default") == "default" else None
    return parse_rate(str(fs))
