"""A directory that ``espnet-kd export`` wrote as a recogniser: decoded by onnxruntime or by sherpa-onnx."""

from collections.abc import Sequence
from pathlib import Path

from espnet_kd.errors import UserError
from espnet_kd.export.directory import DESCRIPTION, TOKENS, Exported, load
from espnet_kd.measure.recogniser import DecodingOptions, Recogniser, Samples, Stream


class ExportedRecogniser(Recogniser):
    """An exported model on the CPU; see ``Recogniser``."""

    runtime = ("onnxruntime",)

    def __init__(self, directory: Path, model: Exported, stream: bool) -> None:
        self.directory, self.rate, self._model = directory, model.rate, model
        self.chunk, self.decoding = model.chunk, model.search
        self.whole = "was exported for whole utterances" if stream and not model.chunk else ""

    @classmethod
    def load(cls, directory: Path, options: DecodingOptions) -> "ExportedRecogniser":
        """Load the graphs.

        Raises:
            UserError: a file is missing or damaged, or an option is one of experiments.
        """
        if options.checkpoint or options.inference_config or options.inference_args:
            raise UserError(
                f"{directory} is an exported model: how it decodes was chosen in `espnet-kd export`, and no "
                "option of checkpoints or of ESPnet's inference applies"
            )
        model = load(directory, options.threads)
        kind = SherpaRecogniser if model.description["format"] == "sherpa" else cls
        return kind(directory, model, options.stream)

    def decode(self, speech: Samples) -> str:
        """Return the text of one utterance."""
        return self._model.transcribe(speech)

    def stream(self) -> Stream:
        """Begin an utterance."""
        return super().stream() if self._model.stream is None else self._model.stream()

    @property
    def files(self) -> Sequence[Path]:
        """Return the graphs, the tokens and the description."""
        graphs = [part["file"] for part in self._model.description["parts"].values()]
        return [self.directory / name for name in (*graphs, TOKENS, DESCRIPTION)]

    @property
    def parameters(self) -> int | None:
        """Return the parameters of the experiment that was exported."""
        count = self._model.description["source"].get("parameters")
        return int(count) if count is not None else None


class SherpaRecogniser(ExportedRecogniser):
    """A model that was exported with ``--format sherpa``."""

    runtime = ("sherpa-onnx",)
