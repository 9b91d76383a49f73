"""ESPnet's beam search on the mean posteriors of several CTC/attention models.

The search is ESPnet's; only its scorers are replaced. It passes them the concatenated encoder outputs of all
models, and each model scores its own part.
"""

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from espnet_kd.decoding import records
from espnet_kd.decoding.decoder import Decoder, DecoderSpec
from espnet_kd.errors import UserError
from espnet_kd.host.models import encode
from espnet_kd.host.search import BatchScorerInterface
from espnet_kd.parallel import Shard
from espnet_kd.teachers.online import Mean
from espnet_kd.teachers.taps import MAX_FRAME_DIFFERENCE

_ONE_AT_A_TIME = threading.Lock()  # a search object holds the state of one utterance


def mean_log(logs: Sequence[Tensor], mean: Mean) -> Tensor:
    """Return the log of the mean posteriors, or the normalised mean of the log-posteriors; each (*, V)."""
    stacked = torch.stack(list(logs))
    if mean == "posteriors":
        return stacked.logsumexp(0) - torch.tensor(float(len(stacked))).log()
    return stacked.mean(0).log_softmax(-1)


class Encoders:
    """Replaces the model in the search: encodes with all models."""

    def __init__(self, models: Sequence[Any]) -> None:
        self.models = models

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the first model."""
        return getattr(self.models[0], name)

    def encode(self, speech: Tensor, speech_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the concatenated encoder outputs, (1, T, sum of all D) with the smallest T, and (1,) T."""
        outputs = [encode(model, speech, speech_lengths)[0] for model in self.models]
        frames = [out.shape[1] for out in outputs]
        length = min(frames)
        if max(frames) - length > MAX_FRAME_DIFFERENCE:
            raise UserError(
                f"the models of the ensemble have {', '.join(map(str, frames))} frames for the same speech: "
                "choose models of the same subsampling (input_layer) and hop length"
            )
        return torch.cat([out[:, :length] for out in outputs], -1), torch.tensor([length])


class MeanCTC:
    """Replaces the CTC layer in the search."""

    def __init__(self, models: Sequence[Any], mean: Mean) -> None:
        self.models, self.mean = models, mean

    def log_softmax(self, encoded: Tensor) -> Tensor:
        """Return the mean log-posteriors (B, T, V) of encoder outputs (B, T, sum of all D)."""
        parts = split_by_model(encoded, self.models)
        logs = [m.ctc.log_softmax(part) for m, part in zip(self.models, parts, strict=True)]
        return mean_log(logs, self.mean)


class MeanDecoder(BatchScorerInterface):
    """Replaces the attention decoder in the search; a state is a list of the states of all decoders."""

    def __init__(self, models: Sequence[Any], mean: Mean) -> None:
        self.models, self.mean = models, mean

    def batch_score(self, ys: Tensor, states: list[Any], xs: Tensor) -> tuple[Tensor, list[Any]]:
        """Score the next token after N prefixes.

        Args:
            ys: (N, L) prefixes.
            states: N states of the decoders.
            xs: (N, T, sum of all D) encoder outputs.

        Returns:
            (N, V) mean log-posteriors, and N new states.
        """
        logs, found = [], []
        parts = split_by_model(xs, self.models)
        for number, (model, part) in enumerate(zip(self.models, parts, strict=True)):
            mine = [None if state is None else state[number] for state in states]
            log, state = model.decoder.batch_score(ys, mine, part)
            logs.append(log)
            found.append(state)
        return mean_log(logs, self.mean), [list(state) for state in zip(*found, strict=True)]


def split_by_model(encoded: Tensor, models: Sequence[Any]) -> tuple[Tensor, ...]:
    """Split concatenated encoder outputs, (*, sum of all D), into those of each model, (*, D)."""
    return encoded.split([model.encoder.output_size() for model in models], -1)


def decode_shard(shard: Shard, specs: tuple[DecoderSpec, ...], mean: Mean) -> Shard:
    """Decode a shard; the worker keeps the loaded models for its next shard."""
    with _ONE_AT_A_TIME:
        return records.write_shard(shard, load_ensemble(specs, mean))


@lru_cache(maxsize=1)
def load_ensemble(specs: tuple[DecoderSpec, ...], mean: Mean) -> Decoder:
    """Return the decoder of the first model, whose search scores with all models.

    Raises:
        UserError: ESPnet cannot build a model, or its search cannot score hypotheses in a batch.
    """
    torch.set_num_threads(1)
    first, *others = map(Decoder, specs)
    models = [first.search.model, *(other.search.model for other in others)]
    first.search.share(Encoders(models), MeanCTC(models, mean), MeanDecoder(models, mean))
    return first
