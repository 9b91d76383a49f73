"""Compare time and memory of RNN-T loss and lattice distillation with plain torch and torchaudio."""

from bench.rnnt.main import main

__all__ = ["main"]
