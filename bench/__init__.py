"""Benchmarks: ``python -m bench [PART ...]``."""
