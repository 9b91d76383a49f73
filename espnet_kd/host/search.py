"""ESPnet's decoding of one utterance, and its beam search with scorers of ours."""

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from espnet_kd.host.installed import check_espnet

check_espnet()  # before anything of ESPnet is imported

import torch
from espnet2.legacy.nets.scorer_interface import BatchScorerInterface
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

from espnet_kd.errors import UserError
from espnet_kd.host.options import INFERENCE

__all__ = ["BatchScorerInterface"]

Result = tuple[str | None, list[str], list[int], Any]  # text, tokens, their ids, hypothesis


def limit_beam(search: Any) -> None:
    """Let the beam of a ``Speech2Text`` for CTC/attention models keep no more than its first step has.

    That are all tokens but the blank: by CTC its logarithm is -1e10, which the next step takes back, so that
    the best hypothesis would be one that begins with the blank, with a score of about 0.
    """
    beam, tokens = search.beam_search, len(search.asr_model.token_list) - 1
    if beam is not None and beam.beam_size > tokens:
        logging.warning(f"the beam is {tokens}, not {beam.beam_size}: there are no more tokens")
        beam.beam_size = tokens


class Search:
    """A trained model with stock ``Speech2Text`` of its task.

    Relied upon: the module of the task has ``Speech2Text``, ``TooShortUttError`` and the class of the task;
    ``Speech2Text`` keeps the model as ``asr_model`` and its configuration as ``asr_train_args``. That of a
    transducer makes results of hypotheses by ``hypotheses_to_results``; the other returns results, in a tuple
    with those of intermediate CTC layers where the model has such, and keeps the search as ``beam_search``,
    whose ``scorers`` are in ``full_scorers`` if they score all tokens, else in ``part_scorers``.

    Args:
        task: ``asr`` or ``asr_transducer``.
        config: path of a config.yaml with absolute paths.
        checkpoint: path of the model file.
        device: of torch.
        options: arguments of ``Speech2Text``, see ``options.search_arguments``.
    """

    def __init__(
        self, task: str, config: str, checkpoint: str, device: str, options: Mapping[str, Any]
    ) -> None:
        self._task, self._module = task, importlib.import_module(INFERENCE[task])
        self._search = self._module.Speech2Text(
            asr_train_config=config, asr_model_file=checkpoint, device=device, **options
        )
        if task == "asr":
            limit_beam(self._search)
        owner = self._module.ASRTransducerTask if task == "asr_transducer" else self._module.ASRTask
        self._prepare = owner.build_preprocess_fn(self._search.asr_train_args, False)

    @property
    def model(self) -> Any:
        """The model whose encoder the search runs."""
        return self._search.asr_model

    def __call__(self, utt: str, speech: Any, seed: int) -> list[Result]:
        """Decode the samples (N,) of one utterance.

        Args:
            utt: its id.
            speech: samples.
            seed: of all random numbers, so that a result does not depend on the utterances before it.

        Returns:
            The best first; a hypothesis has ``score`` and perhaps ``scores``. Empty for an utterance that is
            too short for the model.
        """
        set_all_random_seed(seed)
        if self._prepare is not None:
            speech = self._prepare(utt, {"speech": speech})["speech"]
        try:
            found = self._search(speech)
        except self._module.TooShortUttError:
            return []
        if self._task == "asr_transducer":
            found = self._search.hypotheses_to_results(found)
        results: list[Result] = found[0] if isinstance(found, tuple) else found
        return results

    def batch(self, utts: Sequence[str], speech: Sequence[Any], seed: int) -> list[list[Result]]:
        """Decode several utterances together, on padded speech.

        Relied upon: ``batch_decode`` of ``Speech2Text`` for CTC/attention models, which searches one by one
        if its scorers are not for batches. ESPnet's transducer searches have no batches; there the encoder
        gets the batch, by the calls that ``Speech2Text`` makes for one utterance.

        Args:
            utts: ids.
            speech: samples of each, (N,).
            seed: of all random numbers.

        Returns:
            Results of each utterance; hypotheses may differ in their last digits from those of single
            utterances, because convolutions see the padding.
        """
        if len(utts) == 1:
            return [self(utts[0], speech[0], seed)]
        set_all_random_seed(seed)
        if self._prepare is not None:
            pairs = zip(utts, speech, strict=True)
            speech = [self._prepare(utt, {"speech": wave})["speech"] for utt, wave in pairs]
        if self._task != "asr_transducer":
            found: list[list[Result]] = self._search.batch_decode(list(speech))
            return found
        with torch.no_grad():
            return [self._search.hypotheses_to_results(h) for h in self._search_encoded(speech)]

    def _search_encoded(self, speech: Sequence[Any]) -> Iterator[Any]:
        search, model = self._search, self._search.asr_model
        waves = [torch.as_tensor(wave, dtype=getattr(torch, search.dtype)) for wave in speech]
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True).to(search.device)
        lengths = torch.tensor([len(wave) for wave in waves], device=search.device)
        feats, lengths = model._extract_feats(padded, lengths)
        if model.normalize is not None:
            feats, lengths = model.normalize(feats, lengths)
        encoded, lengths = model.encoder(feats, lengths)
        return (search.beam_search(out[:n]) for out, n in zip(encoded, lengths.tolist(), strict=True))

    def share(self, model: Any, ctc: Any, decoder: BatchScorerInterface) -> None:
        """Let the search take the encoder and the scores of several models.

        Args:
            model: in the place of the model; its ``encode`` is called.
            ctc: in the place of the CTC layer; its ``log_softmax`` is called.
            decoder: in the place of the attention decoder.

        Raises:
            UserError: the search scores hypotheses one by one.
        """
        beam = self._search.beam_search
        if type(beam).__name__ != "BatchBeamSearch":
            raise UserError(
                f"an ensemble is decoded by ESPnet's BatchBeamSearch, not by {type(beam).__name__}"
            )
        if "ctc" in beam.part_scorers:
            beam.part_scorers["ctc"].ctc = ctc
        if "decoder" in beam.full_scorers:
            beam.full_scorers["decoder"] = beam.scorers["decoder"] = decoder
        self._search.asr_model = model


class S2TSearch:
    """A trained model of OWSM with stock ``Speech2Text``.

    Relied upon: it pads speech to the length of the training, and results are text, tokens, their ids, text
    without special tokens, and the hypothesis with its score.

    Args:
        config: path of a config.yaml with absolute paths.
        checkpoint: path of the model file.
        device: of torch.
    """

    def __init__(self, config: str, checkpoint: str, device: str) -> None:
        from espnet2.bin.s2t_inference import Speech2Text

        self._search = Speech2Text(s2t_train_config=config, s2t_model_file=checkpoint, device=device)

    def __call__(self, speech: Any, language: str, task: str) -> tuple[str, int, float]:
        """Decode samples (N,); ``language`` and ``task`` are tokens.

        Returns:
            Text, number of tokens, and log-probability.
        """
        found = self._search(speech.cpu(), lang_sym=language, task_sym=task)
        _, tokens, _, text, hypothesis = (found[0] if isinstance(found, tuple) else found)[0]
        return str(text), len(tokens), float(hypothesis.score)
