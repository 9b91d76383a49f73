"""A training step waits for a GPU no more often than ESPnet's own; on a GPU it gives what the CPU gives."""

from contextlib import nullcontext

import pytest
import torch

from bench import device_step
from bench.device_step import KINDS, MOST_OWN, PLAIN, PLAIN_TRANSDUCER, StepCase, cases, count_step, on_device
from bench.stand_in_device import DEVICE, Counts, counted
from espnet_kd.criteria import criterion
from espnet_kd.teachers.taps import LATTICE

pytestmark = pytest.mark.slow(seconds=6)

# What runs no other model's forward pass waits no more often than the stock step.
ALONE = ("stored targets", "RNN-T")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StepCase]:
    return cases(tmp_path_factory.mktemp("targets"))


@pytest.fixture(scope="module")
def stock(steps: dict[str, StepCase]) -> dict[str, Counts]:
    return {name: count_step(steps[name]) for name in MOST_OWN}


@pytest.mark.parametrize(
    "name",
    [
        *device_step.ATTENTION, "scheduled sampling", "own prefixes, greedy", "own prefixes, nucleus",
        "for int8, pruned", "stored targets", "mutual learning", "two views",
        "two views, with a teacher", "RNN-T", "RNN-T, two views", "RNN-T, two teachers", "RNN-T, stored",
        *(f"RNN-T, {kind}" for kind in KINDS),
        "RNN-T, own prefixes, greedy", "RNN-T, own prefixes, nucleus", "RNN-T, hidden vectors",
        "codebooks", f"n-best lists, {device_step.CTC}", f"n-best lists, {LATTICE}",
    ],
)  # fmt: skip
def test_nothing_of_ours_waits_for_the_device(steps, stock, name: str) -> None:
    case = steps[name]
    counts = count_step(case)
    assert counts.own <= MOST_OWN[case.stock], counts.waits
    assert all("methods/transducer.py" in place for place in counts.waits if " at espnet_kd/" in place)
    if name in ALONE:
        assert counts.waits.total() <= stock[case.stock].waits.total(), counts.waits - stock[case.stock].waits


def test_chunks_of_positions_wait_for_nothing(steps, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = count_step(steps["KL"])
    monkeypatch.setattr(criterion, "GPU_CHUNK", 50)
    chunks = count_step(steps["KL"])
    assert not chunks.own and chunks.waits.total() <= whole.waits.total()
    assert chunks.operations["aten._log_softmax.default"] > whole.operations["aten._log_softmax.default"]


def test_a_wait_is_counted_where_it_is() -> None:
    with counted() as counts:
        x = torch.arange(6.0).to(DEVICE)
        assert not counts.own and counts.waits.total() == 1, "a copy from memory that is not pinned"
        counts.waits.clear()
        assert x.sum().item() == 15 and x[x > 3].shape == (2,) and x.tolist()[1] == 1
        assert x.cpu()[2] == 2 and float(x[0]) == 0
        kinds = [place.split(" at ")[0] for place in counts.waits.elements()]
        assert sorted(kinds) == [
            "_local_scalar_dense", "_local_scalar_dense", "index by a mask", "to the host", "to the host"
        ]  # fmt: skip
        counts.waits.clear()
        assert (x * 2).masked_fill(x > 3, 0.0).to("cpu", non_blocking=True).sum() == 12
        assert not counts.waits
        with pytest.raises(RuntimeError, match="expected all tensors to be on one device"):
            x + torch.ones(6)


@pytest.mark.parametrize(("kind", "most"), [(None, 1300), ("full", 1450), ("collapsed", 1600)])
def test_operations_of_a_lattice(kind: str | None, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two for a diagonal, both ways at once, and some for a block, of which 500 classes have five or six."""
    assert device_step.count_lattice(kind, 500) < most


def test_devices_are_compared_in_float32_alone() -> None:
    """cuDNN's TF32, which convolutions have by default, changes gradients by about 1 %."""
    seen = []

    class Layer(torch.nn.Linear):
        specaug = None

        def forward(self, x: torch.Tensor, utt_id: object) -> tuple[torch.Tensor]:
            seen.append(torch.backends.cudnn.allow_tf32)
            y = super().forward(x).sum()
            y.register_hook(lambda _: seen.append(torch.backends.cudnn.allow_tf32))
            return (y,)

    assert torch.backends.cudnn.allow_tf32
    on_device(StepCase(lambda: Layer(1, 1), {"x": torch.ones(1, 1)}, PLAIN), "cpu")
    assert seen == [False, False] and torch.backends.cudnn.allow_tf32


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("kind", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        PLAIN, PLAIN_TRANSDUCER, *device_step.ATTENTION, "stored targets", "RNN-T", "RNN-T, full",
        "RNN-T, two teachers", "RNN-T, stored",
    ],
)  # fmt: skip
def test_a_gpu_gives_what_the_cpu_gives(steps, name: str, kind: torch.dtype | None) -> None:
    exact = on_device(steps[name], "cpu")
    found = on_device(steps[name], "cuda", torch.autocast("cuda", kind) if kind else nullcontext())
    for a, b in zip(found, exact, strict=True):
        assert (a - b).norm() <= (0.1 if kind else 1e-3) * b.norm()


@pytest.mark.cuda
@needs_gpu
def test_a_gpu_waits_where_the_stand_in_does(steps) -> None:
    """torch's own count, for a step with stored targets against the stock one; the second step of each."""
    import warnings

    found = []
    for name in (PLAIN, "stored targets"):
        torch.manual_seed(0)
        model = steps[name].build().cuda()
        for _ in range(2):
            data = {k: x.cuda() if isinstance(x, torch.Tensor) else x for k, x in steps[name].data.items()}
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model(**data)[0].backward()
            torch.cuda.set_sync_debug_mode("default")
        found.append(sum("synchroniz" in str(w.message) for w in caught))
    assert found[1] <= found[0]
