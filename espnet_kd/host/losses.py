"""The parts of the loss of ESPnet's models, under names of our own.

``forward`` of a stock model computes each part of its loss by a private method, ``_calc_<part>_loss``. A
class that is mixed in before the stock one overrides ``ctc_part`` and its like instead; nothing outside this
module knows the private names.

Axes: B utterances, T encoder frames, L tokens, U = L + 1, D features. Arguments and results are ESPnet's:

- of ``ESPnetASRModel``: ``ctc_part`` and ``attention_part`` (encoded (B, T, D), frames (B,), tokens (B, L),
  their numbers (B,)), ``transducer_part`` (encoded, frames, tokens) of a hybrid; each returns a tuple, the
  loss first;
- of ``ESPnetASRTransducerModel``: ``transducer_part`` (encoded (B, T, D), output of the joint network, tokens
  (B, L), frames (B,), numbers of tokens (B,)), ``ctc_part`` (encoded, tokens, frames, numbers of tokens),
  ``label_part`` (output of the prediction network (B, U, D), tokens); each returns the loss.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from espnet_kd.host.installed import check_espnet

check_espnet()  # before anything of ESPnet is imported

from espnet2.asr_transducer.espnet_transducer_model import ESPnetASRTransducerModel
from torch import Tensor

from espnet_kd.host.models import JOINT_NETWORK

if TYPE_CHECKING:
    Stock: Any  # the model's own class, which has no types
else:
    Stock = object


class LossHooks(Stock):
    """Mixed in before a stock model: methods that a subclass overrides compute the parts of its loss."""

    def ctc_part(self, *args: Tensor) -> Any:
        """Compute the CTC loss as ESPnet does; also called for intermediate layers, after the final one."""
        return super()._calc_ctc_loss(*args)

    def attention_part(self, *args: Tensor) -> Any:
        """Compute the cross-entropy of the attention decoder as ESPnet does."""
        return super()._calc_att_loss(*args)

    def transducer_part(self, *args: Any) -> Any:
        """Compute the RNN-T loss as ESPnet does."""
        return super()._calc_transducer_loss(*args)

    def label_part(self, *args: Tensor) -> Any:
        """Compute the auxiliary loss of a transducer's prediction network as ESPnet does."""
        return super()._calc_lm_loss(*args)

    def _calc_ctc_loss(self, *args: Tensor) -> Any:
        return self.ctc_part(*args)

    def _calc_att_loss(self, *args: Tensor) -> Any:
        return self.attention_part(*args)

    def _calc_transducer_loss(self, *args: Any) -> Any:
        return self.transducer_part(*args)

    def _calc_lm_loss(self, *args: Tensor) -> Any:
        return self.label_part(*args)


def leave_out_labels(model: Any, chosen: Callable[[], Tensor | None]) -> None:
    """Leave utterances out of the cross-entropy of an attention decoder: their labels count as padding.

    Relied upon: ``criterion_att`` takes logits (B, U, V) and labels (B, U), of which it ignores those that
    are ``ignore_id``, and divides the sum by B.

    Args:
        model: an ``ESPnetASRModel`` with an attention decoder.
        chosen: gives the utterances to leave out, (B,) bool, when the loss is computed; None: none.
    """

    def ignore(criterion: Any, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
        rows = chosen()
        return None if rows is None else (inputs[0], inputs[1].masked_fill(rows[:, None], model.ignore_id))

    model.criterion_att.register_forward_pre_hook(ignore)


class LossParts(LossHooks):
    """Mixed in before a stock model: ``parts`` returns what the loss of its last pass is the sum of.

    Relied upon: the attributes that ESPnet weights the parts by, ``ctc_weight``, ``interctc_weight``,
    ``transducer_weight``, ``auxiliary_ctc_weight`` and ``auxiliary_lm_loss_weight``, and how it adds them up.

    Attributes:
        kd_losses: losses since the last call of ``parts``, by the name of the part.
    """

    kd_losses: dict[str, list[Tensor]]

    def ctc_part(self, *args: Tensor) -> Any:
        """Keep the CTC loss; the first of a pass is on the final output of the encoder."""
        return self._kept("ctc", super().ctc_part(*args))

    def attention_part(self, *args: Tensor) -> Any:
        """Keep the loss of the decoder."""
        return self._kept("attention", super().attention_part(*args))

    def transducer_part(self, *args: Any) -> Any:
        """Keep the RNN-T loss."""
        return self._kept("transducer", super().transducer_part(*args))

    def label_part(self, *args: Tensor) -> Any:
        """Keep the loss of the prediction network."""
        return self._kept("label", super().label_part(*args))

    def _kept(self, name: str, result: Any) -> Any:
        self.kd_losses.setdefault(name, []).append(result[0] if isinstance(result, tuple) else result)
        return result

    def parts(self) -> dict[str, Tensor]:
        """Return the weighted parts of the loss of the last pass, by the module whose logits each takes."""
        losses, self.kd_losses = self.kd_losses, {}
        result = {}
        if "ctc" in losses:
            final, *inner = losses["ctc"]
            if inner:  # of intermediate layers
                share = self.interctc_weight
                final = (1 - share) * final + share * sum(inner) / len(inner)
            auxiliary = isinstance(self, ESPnetASRTransducerModel)
            name, weight = ("ctc_lin", self.auxiliary_ctc_weight) if auxiliary else ("ctc", self.ctc_weight)
            result[name] = weight * final
        if "attention" in losses:
            result["decoder"] = (1 - self.ctc_weight) * losses["attention"][0]
        if "transducer" in losses:
            result[JOINT_NETWORK] = getattr(self, "transducer_weight", 1.0) * losses["transducer"][0]
        if "label" in losses:
            result["lm"] = self.auxiliary_lm_loss_weight * losses["label"][0]
        return result
