"""RNN-T loss and lattice distillation: time and memory beside plain torch and torchaudio."""

from bench.rnnt.main import main

__all__ = ["main"]
