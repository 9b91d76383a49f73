"""Data preparation: a corpus as it is distributed in, Kaldi data directories out."""
