"""Which model file of an experiment was decoded, and how large it is."""

from pathlib import Path

from espnet_kd.errors import UserError

PREFERRED = ("*.ave.pth", "*.ave_*best.pth", "*.best.pth", "latest.pth", "*epoch.pth")
OWN_PREFIX = "kd_"  # parameters of distillation that the student is decoded without
# Buffers: a state dict does not tell them from parameters, but nothing trains them.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "melmat")
BUFFER_MODULES = ("normalize.",)


def model_file(directory: Path, inference_tag: str | None = None) -> Path | None:
    """The model file that an inference tag such as ``decode_asr_model_valid.acc.ave`` names.

    Without a tag, or when it names none, the first of ``PREFERRED`` that is there; None if none is.
    """
    files = sorted(p for p in directory.glob("*.pth") if p.name != "checkpoint.pth" and p.exists())
    named = [p for p in files if inference_tag and inference_tag.endswith(f"_{p.stem}")]
    if named:
        return max(named, key=lambda p: len(p.stem))
    for pattern in PREFERRED:
        matching = [p for p in files if p.match(pattern)]
        if matching:
            return min(matching, key=lambda p: (len(p.name), p.name))
    return None


def count_parameters(path: Path) -> int:
    """Number of parameters of the model in a file; own parameters of distillation and buffers are left out.

    Raises:
        UserError: the file is damaged or holds more than tensors.
    """
    import pickle

    import torch

    try:  # "meta": shapes are enough
        state = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        return sum(tensor.numel() for name, tensor in state.items() if _is_parameter(name))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, AttributeError) as e:
        reason = str(e).splitlines()[0][:120]
        raise UserError(f"{path} cannot be read as a model of tensors ({reason})") from None


def _is_parameter(name: str) -> bool:
    own = name.startswith((OWN_PREFIX, *BUFFER_MODULES))
    return not own and name.rpartition(".")[2] not in BUFFERS
