"""Names that ESPnet has moved before or keeps private; the only module that imports them."""

from espnet2.legacy.nets.pytorch_backend.transformer.add_sos_eos import add_sos_eos

__all__ = ["add_sos_eos"]
