"""Names that ESPnet has moved before or keeps private; the only module that imports them."""

from espnet2.legacy.nets.pytorch_backend.transformer.add_sos_eos import add_sos_eos
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.legacy.nets.scorer_interface import BatchScorerInterface

__all__ = ["BatchScorerInterface", "TooShortUttError", "add_sos_eos"]
