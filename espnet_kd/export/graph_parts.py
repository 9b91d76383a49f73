"""The parts of a model as functions of arrays: graphs in onnxruntime, modules of torch, and both compared."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from espnet_kd.errors import UserError, first_line
from espnet_kd.export.search import Array, Part
from espnet_kd.export.stream import Encoder

if TYPE_CHECKING:
    from espnet_kd.export.graphs import GraphPlan

KEPT_CALLS = 40  # inputs of each part that are kept for measurements


@contextmanager
def needing_packages() -> Iterator[None]:
    """Name the extra whose packages are missing in the block.

    Raises:
        UserError: one is.
    """
    try:
        yield
    except ModuleNotFoundError as e:
        raise UserError(f"{e.name} is missing: pip install 'espnet_kd[export]'") from None


def onnx_parts(files: Mapping[str, Path], threads: int = 1) -> dict[str, Part]:
    """Load graphs.

    Args:
        files: part -> ONNX file.
        threads: of onnxruntime.

    Raises:
        UserError: onnxruntime is missing, or cannot load a file.
    """
    return {name: OnnxPart(path, threads) for name, path in files.items()}


class OnnxPart:
    """A graph in onnxruntime, on the CPU."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        with needing_packages():
            import onnxruntime
        self._path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as e:  # onnxruntime's errors have no common type
            raise UserError(f"{path} cannot be loaded: {first_line(e)}: export it again") from e
        self._names = [i.name for i in self._session.get_inputs()]

    def __call__(self, *arrays: Array) -> list[Array]:
        """Run the graph.

        Raises:
            UserError: onnxruntime cannot.
        """
        try:
            found: list[Array] = self._session.run(None, dict(zip(self._names, arrays, strict=True)))
        except Exception as e:  # see above
            raise UserError(f"onnxruntime cannot run {self._path}: {first_line(e)}") from e
        return found


class TorchPart:
    """A module of torch."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, *arrays: Array) -> list[Array]:
        """Run the module."""
        import torch

        with torch.no_grad():
            found = self._module(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays))
        return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]


def torch_parts(plans: "Mapping[str, GraphPlan]", model: Any) -> dict[str, Part]:
    """Return the parts of a model in torch; the encoder of whole utterances is the stock model's own call."""
    import torch

    from espnet_kd.host.models import ctc_layer, encode

    def encoder(speech: Any) -> tuple[Any, ...]:
        encoded, _ = encode(model, speech, torch.tensor([speech.shape[1]]))
        layer = ctc_layer(model)
        return (encoded,) if layer is None else (encoded, layer(encoded).log_softmax(-1))

    whole = "front_end" not in plans
    return {
        name: TorchPart(encoder if name == "encoder" and whole else plan.module)
        for name, plan in plans.items()
    }


class ComparedEncoder:
    """A streaming encoder that is run twice; see ``Compared``."""

    def __init__(self, first: Encoder, second: Encoder) -> None:
        self._first, self._second = first, second
        self.difference = 0.0
        self.calls = 0

    def begin(self) -> None:
        """Begin an utterance with both."""
        self._first.begin()
        self._second.begin()

    def accept(self, samples: Array, last: bool) -> list[Array]:
        """Return what the first gives of the next samples."""
        want, got = (encoder.accept(samples, last) for encoder in (self._first, self._second))
        self.difference = max(self.difference, largest_difference(want, got))
        self.calls += len(want)
        return want


class Compared:
    """A part that is run twice; the results of the first are used, and the differences are kept.

    Args:
        first: the part in torch.
        second: its graph, which may have the last of the outputs only.
        adapt: makes the inputs with which both are compared, if not those of a call.
        outputs: how many of the first outputs the graph has, if not the last.

    Attributes:
        difference: largest absolute difference of an output's values, in all calls.
        calls: the first inputs.
    """

    def __init__(
        self,
        first: Part,
        second: Part,
        adapt: Callable[..., Array] | None = None,
        outputs: int | None = None,
    ) -> None:
        self._first, self._second, self._adapt, self._outputs = first, second, adapt, outputs
        self.difference = 0.0
        self.calls: list[tuple[Array, ...]] = []

    def __call__(self, *arrays: Array) -> list[Array]:
        """Run both."""
        want = expected = self._first(*arrays)
        if len(self.calls) < KEPT_CALLS:
            self.calls.append(arrays)
        if self._adapt is not None:
            arrays = (self._adapt(*arrays),)
            expected = self._first(*arrays)
        got = self._second(*arrays)
        same = expected[-len(got) :] if self._outputs is None else expected[: self._outputs]
        self.difference = max(self.difference, largest_difference(same, got))
        return want


def largest_difference(want: Iterable[Array], got: Iterable[Array]) -> float:
    """Return the largest absolute difference of two lists of arrays; infinity for other shapes or NaN."""
    largest = 0.0
    for left, right in zip(want, got, strict=True):
        finite = np.isfinite(left).all() and np.isfinite(right).all()  # max() would pass over NaN of either
        if left.shape != right.shape or not finite:
            return float("inf")
        largest = max(largest, float(np.abs(left - right).max(initial=0.0)))
    return largest


def least_samples(encoder: Part, compared: Compared, most: int, tolerance: float) -> int:
    """Return the least number of samples that an encoder and its graph take.

    The bound that torch.export finds is for two encoder frames, since it takes a size of one for a constant.
    ESPnet encodes speech of one frame, too, and so does the graph.

    Args:
        encoder: in torch, of samples (1, N).
        compared: the same with its graph.
        most: samples that are known to be enough.
        tolerance: largest difference of a value; above it ``most`` is returned.
    """
    noise = np.random.default_rng(0).normal(0, 0.1, (1, most)).astype(np.float32)
    too_few, enough = 0, most
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        try:
            encoder(noise[:, :middle])
            enough = middle
        except Exception:  # whatever the model's own code raises where it has no frame
            too_few = middle
    try:
        compared(noise[:, :enough])
    except UserError:
        return most
    return enough if compared.difference <= tolerance else most
