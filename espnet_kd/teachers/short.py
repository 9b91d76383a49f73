"""Name the utterances that are too short for a model, or for their labels."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch.distributed as dist
from torch import Tensor, nn

from espnet_kd.errors import UserError
from espnet_kd.host.models import CTC, TOO_SHORT_ERRORS, too_short_reason


def rank() -> int:
    """Number of this process among those that train one model together, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


# What torch says where a signal is shorter than a window or a kernel.
SHORTER = ("Kernel size can't be greater than actual input size", "Padding size should be less than")


class NoFrames(Exception):
    """An utterance of which nothing is left after the subsampling."""


def check_frames_left(frames: Tensor, owner: str) -> None:
    """Refuse a batch, (B,) frames, with an utterance that has none; a lattice needs one.

    Raises:
        NoFrames: there is one.
    """
    if int(frames.min()) < 1:
        raise NoFrames(f"is too short: {owner} has no frame of it after the subsampling")


TOO_SHORT = (NoFrames, *TOO_SHORT_ERRORS)


class Batches:
    """The batches of an epoch, the last of which is remembered."""

    def __init__(self, batches: Iterable[tuple[Sequence[str], dict[str, Tensor]]]) -> None:
        self._batches = batches
        self.utterances: Sequence[str] = ()
        self.samples: Sequence[int] = ()

    def __len__(self) -> int:
        """As that of the iterator, which may have none."""
        return len(self._batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Sequence[str], dict[str, Tensor]]]:
        """Go through them."""
        for utterances, batch in self._batches:
            self.utterances, self.samples = utterances, batch["speech_lengths"].tolist()
            yield utterances, batch

    @contextmanager
    def naming(self, model: nn.Module) -> Iterator["Batches"]:
        """Within the block, what a batch is refused for names its shortest utterance.

        Raises:
            UserError: an utterance is too short.
        """
        handles = [m.register_forward_pre_hook(self._align) for m in model.modules() if isinstance(m, CTC)]
        try:
            yield self
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

    def _align(self, ctc: CTC, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        """Warn of utterances with fewer frames than CTC needs for the labels, which ESPnet passes over."""
        if len(inputs) != 4 or len(inputs[0]) != len(self.utterances):
            return
        _, frames, labels, lengths = inputs
        repeated = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] >= 0)
        needed = lengths + repeated.sum(1)  # between two of a kind there must be a blank
        for place in (frames < needed).nonzero().flatten().tolist():
            warn_once(
                f"utterance {self.utterances[place]} has {int(frames[place])} frames, and CTC needs "
                f"{int(needed[place])} for its labels: it adds nothing to the CTC loss, or makes it infinite "
                "without `zero_infinity`; leave it out"
            )


def warn(text: str) -> None:
    """Log what only this process of a training sees; of all but the first ESPnet shows errors alone."""
    logging.log(logging.ERROR if rank() else logging.WARNING, text)


@cache
def warn_once(text: str) -> None:
    """As ``warn``, but not in every epoch again."""
    warn(text)
