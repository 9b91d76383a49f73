"""ESPnet's encoding and decoding of speech that arrives in chunks."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from espnet_kd.host.installed import check_espnet

check_espnet()  # before anything of ESPnet is imported

import torch
from espnet2.asr_transducer.frontend.online_audio_processor import OnlineAudioProcessor
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from torch import Tensor

from espnet_kd.host.models import TOO_SHORT_ERRORS, Model, ctc_layer
from espnet_kd.host.search import Result, limit_beam

# What torch says where a contextual block encoder, which does not check it, gets too few frames.
FEWER_FRAMES = "Kernel size can't be greater than actual input size"
EDGES = 8  # between two chunks, over which frames are counted


class StreamingSearch:
    """A trained model with ESPnet's search that takes the speech in chunks.

    Relied upon: ``Speech2TextStreaming`` of the task asr is called with samples and ``is_final``, returns
    results of all speech so far, and forgets it by ``reset``; a block of its encoder moves on by ``hop_size``
    frames, each of ``subsample`` frames of ``hop_length`` samples. ``Speech2Text`` of transducers, made with
    ``streaming``, has ``streaming_decode`` and ``reset_streaming_cache`` for the same, and takes
    ``audio_processor.decoding_samples`` at a time. Both keep the model as ``asr_model``.

    Args:
        task: ``asr`` or ``asr_transducer``.
        config: path of a config.yaml with absolute paths.
        checkpoint: path of the model file.
        device: of torch.
        options: arguments of the search; of a transducer with ``streaming``.

    Attributes:
        chunk: samples that it takes at a time.
    """

    def __init__(
        self, task: str, config: str, checkpoint: str, device: str, options: Mapping[str, Any]
    ) -> None:
        files = {"asr_train_config": config, "asr_model_file": checkpoint, "device": device}
        if task == "asr_transducer":
            from espnet2.bin.asr_transducer_inference import Speech2Text

            self._search: Any = Speech2Text(**files, **options)
            self.chunk = int(self._search.audio_processor.decoding_samples)
        else:
            from espnet2.bin.asr_inference_streaming import Speech2TextStreaming

            self._search = Speech2TextStreaming(**files, **options)
            limit_beam(self._search)
            encoder = self.model.encoder
            self.chunk = int(encoder.hop_size * encoder.subsample * self._search.hop_length)
        self._transducer = task == "asr_transducer"
        is_float = self._search.dtype == "float32"
        if is_float and (warning := why_uneven(self.model, self.chunk, self._frames_by_chunks())):
            logging.warning(warning)
        self._found: list[Result] = []

    @property
    def model(self) -> Any:
        """The model whose encoder the search runs."""
        return self._search.asr_model

    def _frames_by_chunks(self) -> Callable[[Tensor], int]:
        """Return what counts the new frames of features of each chunk."""
        if self._transducer:
            return frames_of_processor(self._search.audio_processor)
        states = None

        def count(samples: Tensor) -> int:
            nonlocal states
            features, _, states = self._search.apply_frontend(samples, states)
            return 0 if features is None else features.size(1)

        return count

    def begin(self, seed: int) -> None:
        """Begin an utterance, also after one that has not ended.

        Args:
            seed: of all random numbers.
        """
        set_all_random_seed(seed)
        self._found = []
        if self._transducer:
            self._search.reset_streaming_cache()
        else:
            self._search.reset()

    def accept(self, samples: Any, last: bool) -> list[Result]:
        """Decode the next samples (N,) of the utterance.

        Returns:
            Results of all speech so far, the best first; those of the call before if the samples are too few
            to change anything.
        """
        speech = torch.as_tensor(samples)
        try:
            if self._transducer:
                hypotheses = self._search.streaming_decode(speech, is_final=last)
                # before the last chunk ESPnet has the worst first
                best_first = self._search.beam_search.sort_nbest(list(hypotheses))
                found = self._search.hypotheses_to_results(best_first)
            else:
                found = self._search(speech, is_final=last)
        except TOO_SHORT_ERRORS:
            found = []
        except RuntimeError as e:
            if FEWER_FRAMES not in str(e):
                raise
            found = []
        self._found = found or self._found
        return self._found


def frames_of_processor(processor: OnlineAudioProcessor) -> Callable[[Tensor], int]:
    """Return what counts the new frames of features that ESPnet makes of each chunk for a transducer."""
    processor.reset_cache()
    again = 0

    def count(samples: Tensor) -> int:
        nonlocal again
        found = processor.compute_features(samples, False)[0].size(1)
        new, again = found - again, min(found, processor.offset_frames)
        return int(new)

    return count


@torch.no_grad()
def why_uneven(model: Model, chunk: int, count: Callable[[Tensor], int]) -> str:
    """Say how many frames of features ESPnet leaves out, or has twice, where two chunks meet; "" for none.

    ESPnet cuts speech by ``n_fft`` and ``hop_length`` of frontend_conf, or 512 and 128, and some sizes do not
    fit to its arithmetic; the model then gets speech that is faster or slower than in its training.

    Args:
        model: with its front end.
        chunk: samples of a chunk.
        count: called with one chunk after another, gives the new frames of each.
    """
    silence = torch.zeros(1, (2 + EDGES) * chunk)
    by_chunks = [count(silence[0, :chunk]) for _ in range(2 + EDGES)][2:]
    whole = [
        model._extract_feats(silence[:, :size], torch.tensor([size]))[0].size(1)
        for size in (2 * chunk, (2 + EDGES) * chunk)
    ]
    lost = round((whole[1] - whole[0] - sum(by_chunks)) / EDGES)
    if not lost:
        return ""
    what = f"leaves out {lost} of the frames" if lost > 0 else f"repeats {-lost} frames"
    return (
        f"ESPnet's streaming decoder {what} of features between two chunks of speech, which it cuts by n_fft "
        "and hop_length of frontend_conf: train with sizes that fit, such as n_fft 400 with hop_length 160, "
        "or 512 with 128"
    )


class StreamingEncoder:
    """A transducer's front end and encoder on chunks, as ESPnet's streaming search runs them.

    Relied upon: ``OnlineAudioProcessor`` makes features of samples and of what it has kept of those before;
    ``chunk_forward`` of the encoder takes them.

    Args:
        model: in eval mode.
        config: of its experiment.
        window_ms: duration of a chunk.
        left_context: encoder frames before a chunk that attention sees.

    Attributes:
        processor: ESPnet's, with the numbers of samples and frames that it keeps.
    """

    def __init__(self, model: Model, config: Mapping[str, Any], window_ms: int, left_context: int) -> None:
        self._model, self._left = model, left_context
        front_end = config.get("frontend_conf") or {}
        self.processor = OnlineAudioProcessor(
            model._extract_feats, model.normalize, window_ms, model.encoder.embed.subsampling_factor,
            front_end, torch.device("cpu"),
        )  # fmt: skip

    def begin(self) -> None:
        """Begin an utterance."""
        self.processor.reset_cache()
        self._model.encoder.reset_cache(self._left, device=torch.device("cpu"))
        self._frames = torch.zeros(1, 1, dtype=torch.long)

    @torch.no_grad()
    def accept(self, samples: Any, last: bool) -> list[Any]:
        """Encode the next samples (N,).

        Returns:
            (1, T, D) encoder output, and with a CTC layer (1, T, V) log-probabilities, as arrays.
        """
        features, lengths = self.processor.compute_features(torch.as_tensor(samples), last)
        encoder = self._model.encoder
        encoded = encoder.chunk_forward(features, lengths, self._frames, left_context=self._left)
        self._frames += encoded.size(1)
        layer = ctc_layer(self._model)
        found = [encoded] if layer is None else [encoded, layer(encoded).log_softmax(-1)]
        return [output.numpy() for output in found]
