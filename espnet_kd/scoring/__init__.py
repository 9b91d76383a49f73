"""Scoring: alignment, WER and CER, sclite, hubscr, confidence intervals."""
