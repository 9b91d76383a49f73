"""What a worker does: load the teacher once, decode utterances with ESPnet's own ``Speech2Text``."""

import importlib
import json
import math
import re
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from espnet_kd.errors import UserError
from espnet_kd.recipe.cluster import device_of_worker
from espnet_kd.recipe.posteriors import read_audio
from espnet_kd.recipe.pseudo_label import shards
from espnet_kd.recipe.pseudo_label.records import Hypothesis, Record
from espnet_kd.recipe.pseudo_label.teacher import TASKS
from espnet_kd.recipe.shards import Shard

UNKNOWN = "<unk>"
IN_ARK = re.compile(r"\.ark:\d+$")
DECIMALS = 4  # of scores: the last bits differ between processors
_ONE_AT_A_TIME = threading.Lock()  # a search keeps its state in itself


@dataclass(frozen=True)
class Spec:
    """What a worker has to know, in plain values.

    Attributes:
        config: path of a config.yaml with absolute paths.
        options: JSON of the arguments of ``Speech2Text``.
        rate: Hz that the model expects, or None.
        device: "cpu" or "cuda".
    """

    task: str
    config: str
    checkpoint: str
    options: str
    seed: int
    rate: int | None
    device: str


def work(shard: Shard, spec: Spec) -> Shard:
    """Decode a shard; workers keep the teacher that they loaded for the next one."""
    with _ONE_AT_A_TIME:
        return shards.write(shard, load(spec))


@lru_cache(maxsize=1)
def load(spec: Spec) -> "Decoder":
    """The decoder of a specification.

    Raises:
        UserError: ESPnet cannot build it.
    """
    import torch

    torch.set_num_threads(1)  # sums of other numbers of threads differ in their last bits
    try:
        return Decoder(spec)
    except Exception as e:
        raise UserError(f"{spec.checkpoint} cannot be loaded for decoding: {_reason(e)}") from e


class Decoder:
    """An utterance's n-best list by stock inference."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.module = importlib.import_module(TASKS[spec.task])
        self.search = self.module.Speech2Text(
            asr_train_config=spec.config, asr_model_file=spec.checkpoint,
            device=device_of_worker(spec.device), **json.loads(spec.options),
        )  # fmt: skip
        task = self.module.ASRTransducerTask if spec.task == "asr_transducer" else self.module.ASRTask
        self.preprocess = task.build_preprocess_fn(self.search.asr_train_args, False)

    def __call__(self, utt: str, wav: str) -> Record:
        """Decode one utterance.

        Args:
            utt: its id.
            wav: its audio as wav.scp names it, by an absolute path.

        Raises:
            UserError: the audio is unfit, or the model cannot take it; names the utterance.
        """
        speech, rate = read_speech(wav, utt)
        if self.spec.rate not in (None, rate):
            raise UserError(
                f"{wav} of {utt} has {rate} Hz, the teacher expects {self.spec.rate}: "
                "format the data at that rate"
            )
        try:
            found = self._decode(utt, speech)
        except self.module.TooShortUttError:
            found = []
        except (RuntimeError, ValueError, IndexError) as e:
            raise UserError(f"{wav} of {utt} cannot be decoded: {_reason(e)}") from e
        return Record(utt, len(speech), rate, tuple(self._hypothesis(utt, *entry) for entry in found))

    def _decode(self, utt: str, speech: NDArray[np.floating[Any]]) -> list[Any]:
        from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

        set_all_random_seed(self.spec.seed)  # an utterance's result does not depend on those before it
        if self.preprocess is not None:
            speech = self.preprocess(utt, {"speech": speech})["speech"]
        found = self.search(speech)
        if self.spec.task == "asr_transducer":
            return self.search.hypotheses_to_results(found)
        return found[0] if isinstance(found, tuple) else found  # the rest is of intermediate layers

    def _hypothesis(
        self, utt: str, text: str | None, tokens: list[str], ids: list[int], found: Any
    ) -> Hypothesis:
        if text is None:
            raise UserError(
                f"{self.spec.config} has no token_type: the teacher's tokens cannot be made a text"
            )
        if not math.isfinite(found.score):
            raise UserError(f"{utt}: the teacher's score is {found.score}: has its training diverged?")
        scores = {name: round(float(v), DECIMALS) for name, v in getattr(found, "scores", {}).items()}
        score = round(float(found.score), DECIMALS)
        return Hypothesis(text, len(ids), tokens.count(UNKNOWN), score, scores)


def read_speech(wav: str, utt: str) -> tuple[NDArray[np.floating[Any]], int]:
    """Samples (N,) and rate as stock inference reads them: full scale is 1, but in an ark what is stored.

    Raises:
        UserError: it cannot be read, or has several channels.
    """
    if not IN_ARK.search(wav):
        return read_audio(wav, utt)
    import kaldiio

    try:
        one, other = kaldiio.load_mat(wav)
    except (OSError, ValueError, RuntimeError, AssertionError) as e:
        raise UserError(f"{wav} of {utt} cannot be read: {_reason(e)}") from None
    speech, rate = (one, other) if isinstance(other, int) else (other, one)
    if speech.ndim > 1:
        raise UserError(f"{wav} of {utt} has {speech.shape[1]} channels, not one")
    return speech.astype(np.float32), rate


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
