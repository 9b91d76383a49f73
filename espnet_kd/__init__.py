"""Knowledge distillation for end-to-end speech recognition with ESPnet."""

__version__ = "0.1.0"
