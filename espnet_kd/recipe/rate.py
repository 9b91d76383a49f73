"""Sampling rates as ESPnet's recipes write them."""

import re

from espnet_kd.errors import UserError


def parse_rate(text: str) -> int:
    """``16k``, ``22.05k`` or ``16000`` in Hz.

    Raises:
        UserError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(k?)", text.strip().lower())
    hertz = float(match[1]) * (1000 if match[2] else 1) if match else 0
    if hertz < 1 or hertz != round(hertz):
        raise UserError(f"--fs {text!r} is not a sampling rate: write 16k or 16000")
    return round(hertz)
