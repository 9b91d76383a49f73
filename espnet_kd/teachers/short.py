"""Report by name the utterances that are too short for a model, or for their labels."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.host.models import CTC, TOO_SHORT_ERRORS, has_lattice, too_short_reason
from espnet_kd.rnnt.device import HostCopy

# Parts of torch's messages about a signal that is shorter than a window or a kernel.
SHORTER = ("Kernel size can't be greater than actual input size", "Padding size should be less than")


class NoFramesError(Exception):
    """An utterance has no frame left after the subsampling."""


TOO_SHORT = (NoFramesError, *TOO_SHORT_ERRORS)


class TrackedBatches:
    """Iterate over batches, and remember the current one, so that errors and warnings can name utterances.

    Args:
        batches: ids of the utterances, and the tensors, of each batch.
    """

    def __init__(self, batches: Iterable[tuple[Sequence[str], dict[str, Tensor]]]) -> None:
        self._batches = batches
        self.utterances: Sequence[str] = ()
        self.samples: Sequence[int] = ()
        self._classes: int | None = None
        self._views = 1  # of an utterance that a step of training has
        # Frames, and what CTC needs of them.
        self._counted: list[tuple[Sequence[str], HostCopy, HostCopy]] = []

    def __len__(self) -> int:
        """Return the number of batches; fails, as the iterator does, if that is not known."""
        return len(self._batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Sequence[str], dict[str, Tensor]]]:
        """Yield the batches, and remember each."""
        for utterances, batch in shown(self._batches):
            self._warn_of_few_frames()
            if self._classes is not None and "text" in batch:
                check_labels(utterances, batch["text"], batch["text_lengths"], self._classes)
            self.utterances, self.samples = utterances, batch["speech_lengths"].tolist()
            yield utterances, batch

    @contextmanager
    def naming(self, model: nn.Module) -> Iterator["TrackedBatches"]:
        """Turn, within the block, errors about speech that is too short into one that names the utterance.

        Also warns of utterances that have too few frames for CTC, and refuses labels that no lattice has.

        Raises:
            UserError: an utterance, the shortest of the batch, is too short.
        """
        whole: Any = getattr(model, "module", model)  # of several processes
        self._classes = int(whole.vocab_size) if has_lattice(whole) else None
        self._views = getattr(getattr(whole, "kd_agreement", None), "views", 1)
        handles = [
            m.register_forward_pre_hook(self._count_frames) for m in model.modules() if isinstance(m, CTC)
        ]
        try:
            yield self
            self._warn_of_few_frames()
        except (*TOO_SHORT, RuntimeError) as e:
            reason = too_short_reason(e)
            known = not isinstance(e, RuntimeError) or any(text in reason for text in SHORTER)
            if not (known and self.utterances):
                raise
            if isinstance(e, RuntimeError):
                reason = "is too short: it has fewer samples than a window of the front end needs"
            samples, utt = min(zip(self.samples, self.utterances, strict=True))
            raise UserError(
                f"utterance {utt}, {samples} samples, {reason}: leave it out, such as by stage 4 of a recipe "
                "with a larger --min_wav_duration"
            ) from None
        finally:
            for handle in handles:
                handle.remove()

    def _count_frames(self, ctc: CTC, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        """Count the frames that CTC has and needs for the labels; a forward pre-hook of the CTC layer."""
        count, views = len(self.utterances), self._views if ctc.training else 1
        if len(inputs) != 4 or len(inputs[0]) != views * count:
            return
        _, frames, labels, lengths = (x[::views] for x in inputs)  # one of the views of each utterance
        repeated = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] >= 0)
        needed = lengths + repeated.sum(1)  # a blank must separate two equal labels
        self._counted.append((self.utterances, HostCopy(frames), HostCopy(needed)))

    def _warn_of_few_frames(self) -> None:
        """Warn of utterances with fewer frames than CTC needs for the labels; ESPnet ignores these silently.

        Called when the batch is done, for the host not to wait for the GPU.
        """
        for utterances, *copies in self._counted:
            for utt, frames, needed in zip(utterances, *(c.read().tolist() for c in copies), strict=True):
                if frames < needed:
                    warn_once(
                        f"utterance {utt} has {frames} frames, and CTC needs {needed} for its labels: it "
                        "adds nothing to the CTC loss, or makes it infinite without `zero_infinity`; leave "
                        "it out"
                    )
        self._counted.clear()


def shown(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches; a ``UserError`` of a process that loads them comes without that process's traceback.

    Raises:
        UserError: as that process raised it.
    """
    try:
        yield from batches
    except UserError as e:
        text = str(e.args[0]).rstrip()
        name = f"{UserError.__module__}.{UserError.__name__}: "
        raise UserError(text.rpartition(name)[2] if text.startswith("Caught ") else text) from None


def check_labels(utterances: Sequence[str], text: Tensor, lengths: Tensor, classes: int) -> None:
    """Check the tokens of a batch, (B, L) with (B,) lengths on the host, for a model with a lattice.

    Raises:
        UserError: one is the blank, or not in the vocabulary; names the utterance.
    """
    real = torch.arange(text.shape[1]) < lengths[:, None]
    for place, token in (real & ((text < 1) | (text >= classes))).nonzero().tolist()[:1]:
        raise UserError(
            f"utterance {utterances[place]}: token {token} of its text is {int(text[place, token])}, but the "
            f"labels of a transducer are 1 to {classes - 1}: look for the blank in the text, and whether the "
            "token list is the model's"
        )


def check_frames_left(frames: Tensor, owner: str) -> None:
    """Check that every utterance of a batch, (B,) frames, has a frame; a lattice needs at least one.

    Raises:
        NoFramesError: an utterance has none.
    """
    if int(frames.min()) < 1:
        raise NoFramesError(f"is too short: {owner} has no frame of it after the subsampling")


def warn(text: str) -> None:
    """Log a warning that only this process can give; as an error if ESPnet hides warnings (rank > 0)."""
    logging.log(logging.ERROR if rank() else logging.WARNING, text)


@cache
def warn_once(text: str) -> None:
    """Log a warning as ``warn`` does, but each text only once."""
    warn(text)


def rank() -> int:
    """Return the index of this process in distributed training; 0 for a single process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
