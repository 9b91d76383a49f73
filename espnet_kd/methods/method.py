"""The interface of a method: what it may add to a training, to an experiment's files and to the report."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Preprocess = Callable[[str, dict[str, Any]], dict[str, Any]]  # utterance id and its data -> data
BuildModel = Callable[[argparse.Namespace], Any]
BuildBatches = Callable[[argparse.Namespace, Any, str], Any]  # ESPnet's build_sequence_iter_factory


@dataclass(frozen=True)
class SavedModel:
    """A model that a training has beside the student.

    Attributes:
        folder: name of the folder of its files in the experiment directory.
        suffix: end of the names of its statistics.
        tensors: its parameters and buffers, by stock name.
    """

    folder: str
    suffix: str
    tensors: dict[str, Any]


class Method:
    """Base class of all methods; a subclass implements what it has, the defaults change nothing.

    There is one instance of each class, without state of its own. ``config`` is a whole configuration,
    ``args`` the same as ESPnet parsed it. See docs/extending.md.
    """

    # --- before a training ---

    def add_arguments(self, group: Any) -> None:
        """Add the options to argparse's group; ``action="mapping"`` is one that holds a mapping."""

    def check(self, args: argparse.Namespace, classes: int) -> None:
        """Refuse options that are wrong, with a UserError; called whether the method is used or not.

        Args:
            args: all options.
            classes: size of the token list.
        """

    def check_model(self, model: Any, args: argparse.Namespace) -> None:
        """Refuse a model, or options that do not go with it, with a UserError; called before ``attach``.

        What only a trained teacher shows is for ``attach`` to refuse.

        Args:
            model: as ESPnet builds it; unchanged afterwards.
            args: all options.
        """

    def check_inputs(self, args: argparse.Namespace) -> None:
        """Refuse files that the training would read and that are missing, with a UserError."""

    def inputs(self, config: Mapping[str, Any]) -> dict[str, list[Path]]:
        """Return the files that the training learns from besides its data, by a name for messages."""
        return {}

    def models(self, config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """Return the stock configuration of each model that is trained, by a name such as "peer 2".

        Only for a method that trains other models than the one of the configuration.
        """
        return {}

    # --- while training ---

    def preprocess(
        self, args: argparse.Namespace, train: bool, stock: Preprocess | None
    ) -> Preprocess | None:
        """Change what a batch has of an utterance.

        Args:
            args: all options.
            train: for training data; False for validation.
            stock: what is done without this method; None for nothing.
        """
        return stock

    def batches(self, args: argparse.Namespace, options: Any, mode: str, stock: BuildBatches) -> Any:
        """Change which utterances make a batch.

        Args:
            args: all options.
            options: ESPnet's, of the iterator.
            mode: `train`, `valid` or `plot_att`.
            stock: builds the factory of iterators without this method.
        """
        return stock(args, options, mode)

    def attach(self, model: Any, args: argparse.Namespace, build: BuildModel) -> Any:
        """Make a model train with this method, in place, and return it.

        The keys of its state dict must stay stock: see espnet_kd.methods.own.

        Args:
            model: as ESPnet builds it, with the methods before this one.
            args: all options.
            build: builds another stock model.
        """
        return model

    def before_training(self, model: Any, optimizers: Sequence[Any], options: Any) -> None:
        """Prepare the optimizers or the trainer's options, before the first step of each process.

        Args:
            model: what ``attach`` returned.
            optimizers: of the model.
            options: of ESPnet's trainer; None in ESPnet3.
        """

    # --- after a training ---

    def saved_models(self, own: Mapping[str, Any]) -> list[SavedModel]:
        """Return the models besides the student among the tensors under ``kd_`` of a model or checkpoint."""
        return []

    def export(self, exp: Path, config: Mapping[str, Any]) -> list[Path]:
        """Write an experiment directory for each model to decode, and return them; [] for ``exp`` alone.

        Raises:
            UserError: the training is not finished.
        """
        return []

    # --- in the results; without importing torch or ESPnet, for speed ---

    def label(self, config: Mapping[str, Any]) -> str:
        """Return what this method adds to the name of a row; "" for nothing."""
        return ""

    def distils(self, config: Mapping[str, Any]) -> bool:
        """Return True if the student has learned from another model: its row is named "distilled: ..."."""
        return False

    def suffix(self, config: Mapping[str, Any]) -> str:
        """Return the end of the names of this model's statistics; "" for stock names."""
        return ""

    def passes(self, config: Mapping[str, Any]) -> int:
        """Return how many passes over the encoder an update takes in place of one pass over the batch."""
        return 1

    def is_off(self, config: Mapping[str, Any]) -> bool:
        """Return True if the options are there but change nothing, such as a weight of 0."""
        return False
