"""Do for Lightning what ResumableTrainer does in ESPnet2: keep what methods add to a model in checkpoints.

Lightning gives the callback to every Trainer by the entry-point group `lightning.pytorch.callbacks_factory`
(setup.py), since a recipe that lacked it would go on with criteria that start anew.
"""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from espnet_kd.errors import UserError
from espnet_kd.host.outputs import OWN_PREFIX
from espnet_kd.methods.initialise import spare_unreached
from espnet_kd.methods.own import keep_apart, load_own, own_tensors, saved_tensors


class KeepOwnState(Callback):
    """Save and restore parameters of criteria and the count of batches; does nothing for other models."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to the optimizers, which exist now, and whose state Lightning restores next."""
        if has_own(pl_module):
            model = _model(pl_module)
            for method in model.kd_methods:
                method.before_training(model, trainer.optimizers, None)
            keep_apart(model, trainer.optimizers)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Do what a hook of the optimizer does in ESPnet2, before Lightning has computed the gradients."""
        if has_own(pl_module):
            spare_unreached(_model(pl_module), optimizer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: Mapping[str, Any]
    ) -> None:
        """Load the tensors from a checkpoint that a training continues from.

        Raises:
            UserError: they are of other criteria.
        """
        if (
            not has_own(pl_module) or "optimizer_states" not in checkpoint
        ):  # without the latter: weights alone
            return
        states = {"model": checkpoint["state_dict"], "optimizers": checkpoint["optimizer_states"]}
        try:
            load_own(_model(pl_module), saved_tensors(states))
        except UserError as e:
            raise UserError(f"the checkpoint of Lightning does not fit the configuration: {e}") from None


def has_own(pl_module: LightningModule) -> bool:
    """Return True if the module holds a model to which a method has added something."""
    model = _model(pl_module)
    return hasattr(model, f"{OWN_PREFIX}methods") and bool(own_tensors(model))


def _model(pl_module: LightningModule) -> Any:
    return getattr(pl_module, "model", None)


def callbacks() -> list[Callback]:
    """Return what Lightning adds to a Trainer's callbacks."""
    return [KeepOwnState()]
