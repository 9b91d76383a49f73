"""Kaldi data directories and dump directories: format, speed, lengths, tokens, statistics."""
