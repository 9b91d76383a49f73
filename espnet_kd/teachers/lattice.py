"""The lattice of a transducer, as the pieces of its joint network."""

from collections.abc import Iterable

from espnet2.asr_transducer.utils import get_transducer_task_io
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.rnnt import Joint, joint_of

LATTICE = "joint_network"  # the tap


def lattice(model: nn.Module, encoded: Tensor, lengths: Tensor, text: Tensor) -> Joint:
    """Run the prediction network along the labels.

    Args:
        model: ESPnet's transducer, or its ASR model with a transducer decoder.
        encoded: (B, T, D) encoder output.
        lengths: (B,) frames.
        text: (B, L) tokens, padded with -1; not changed.
    """
    decoder_in, *_ = get_transducer_task_io(text.clone(), lengths, ignore_id=model.ignore_id)
    model.decoder.set_device(encoded.device)
    return joint_of(model.joint_network, encoded, model.decoder(decoder_in))


def has_lattice(model: nn.Module) -> bool:
    """True for ESPnet's transducer, and for its ASR model with a transducer decoder."""
    return getattr(model, "joint_network", None) is not None


def check_lattice(model: nn.Module, owner: str) -> None:
    """Refuse a model without one.

    Raises:
        UserError: it is no transducer, its blank is not token 0, or it has more blanks than one.
    """
    if not has_lattice(model):
        raise UserError(f"{owner} is no transducer: a criterion on the lattice needs its joint network")
    if getattr(model, "blank_id", 0) != 0:
        raise UserError(f"{owner} has the blank at token {model.blank_id}: a lattice needs it at 0")
    if getattr(model, "transducer_multi_blank_durations", None):
        raise UserError(f"{owner} has blanks of several durations: a lattice needs one blank")


def refuse_prediction_network(model: nn.Module, paths: Iterable[str], owner: str) -> None:
    """Refuse taps in the prediction network of a transducer, which gives no posteriors.

    Raises:
        UserError: there is one.
    """
    for path in paths:
        if path.split(".")[0] == "decoder" and has_lattice(model):
            raise UserError(
                f"tap {path!r} of {owner} is in a transducer's prediction network: use `type: transducer`, "
                "which compares the lattice, or tap the encoder"
            )
