"""A directory that ``espnet-kd export`` wrote as a recogniser: decoded by onnxruntime or by sherpa-onnx."""

from collections.abc import Sequence
from pathlib import Path

from espnet_kd.errors import UserError
from espnet_kd.export.directory import DESCRIPTION, TOKENS, Exported, load
from espnet_kd.measure.recogniser import DecodingOptions, Recogniser, Samples


class ExportedRecogniser(Recogniser):
    """An exported model on the CPU; see ``Recogniser``."""

    runtime = ("onnxruntime",)

    def __init__(self, directory: Path, model: Exported, stream: bool) -> None:
        self.directory, self.rate, self._model = directory, model.rate, model
        self.whole = "was exported for whole utterances" if stream else ""
        if model.description["format"] == "sherpa":
            self.runtime = ("sherpa-onnx",)  # type: ignore[misc]

    @classmethod
    def load(cls, directory: Path, options: DecodingOptions) -> "ExportedRecogniser":
        """Load the graphs.

        Raises:
            UserError: a file is missing or damaged, or an option is one of experiments.
        """
        if options.checkpoint or options.inference_config or options.inference_args:
            raise UserError(
                f"{directory} is an exported model: how it decodes was chosen in `espnet-kd export`, and options "
                "of checkpoints and of ESPnet's inference do not apply"
            )
        return cls(directory, load(directory, options.threads), options.stream)

    def decode(self, speech: Samples) -> str:
        """Return the text of one utterance."""
        return self._model.transcribe(speech)

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
