"""The lattice of a transducer, as the pieces of its joint network."""

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


def check_lattice(model: nn.Module, owner: str) -> None:
    """Refuse a model without one.

    Raises:
        UserError: it is no transducer, or its blank is not token 0.
    """
    if getattr(model, "joint_network", None) is None:
        raise UserError(f"{owner} is no transducer: a criterion on the lattice needs its joint network")
    if getattr(model, "blank_id", 0) != 0:
        raise UserError(f"{owner} has the blank at token {model.blank_id}: a lattice needs it at 0")
