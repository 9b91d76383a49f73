"""A whole lattice in a store: its projected outputs and, once, the output layer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint
from espnet_kd.rnnt import Joint, rnnt_distillation
from espnet_kd.targets.format import (
    OUTPUT_LAYER,
    Manifest,
    OutputLayer,
    ShardEntry,
    TapFormat,
    TargetRecord,
    text_checksum,
    write_output_layer,
    write_shard,
)
from espnet_kd.targets.store import Store, verify
from espnet_kd.targets.teacher import StoredTeacher, to_rows
from espnet_kd.targets.worker import alone
from espnet_kd.teachers.taps import Targets

TAP = "joint_network"
FRAMES, LABELS = torch.tensor([9, 6]), torch.tensor([3, 1])
TEXT = torch.tensor([[1, 2, 3], [4, -1, -1]])
NAMES = ["a", "b"]
CLASSES, SPACE = 6, 8


def lattice(seed: int) -> Joint:
    """Make a lattice of two utterances with padding."""
    random = torch.Generator().manual_seed(seed)
    shapes = (2, 9, SPACE), (2, 4, SPACE), (CLASSES, SPACE), (CLASSES,)
    return Joint(*(torch.randn(shape, generator=random) for shape in shapes))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Write a store of the targets of lattice(0), the teacher."""
    teacher, tap, records = lattice(0), TapFormat("joint", SPACE), []
    for i, name in enumerate(NAMES):
        tokens = TEXT[i, : LABELS[i]].tolist()
        rows = to_rows(Targets(teacher.utterance(i), FRAMES[i : i + 1]), tap, tokens)
        assert rows.nbytes == (FRAMES[i] + LABELS[i] + 1) * SPACE * 2
        records.append(TargetRecord(name, 1000, text_checksum(tokens), {TAP: rows}))
    write_shard(tmp_path / "00001", records, {TAP: tap})
    layer = OutputLayer(teacher.weight.numpy(), teacher.bias.numpy(), "tanh")
    entry = ShardEntry("00001", "a", 2, fingerprint(tmp_path / "00001/index.jsonl"))
    checksum = write_output_layer(tmp_path, layer)
    Manifest(({},), "", {}, {TAP: tap}, {}, 16000, (entry,), 2000, 0, checksum).write(tmp_path)
    return Store(tmp_path)


@pytest.mark.parametrize("kind", ["full", "occupancy", "alignments"])
def test_the_loss_equals_that_with_an_online_teacher(store: Store, kind: str) -> None:
    batch = (torch.zeros(2, 1000), torch.tensor([1000, 1000]), TEXT, LABELS)
    stored = StoredTeacher(store, [TAP]).targets(*batch, NAMES)[TAP]
    assert stored.lengths.tolist() == FRAMES.tolist() and not list(verify(store))
    found = []
    for teacher in (lattice(0), stored.values):
        student = lattice(1).map(lambda x: x.requires_grad_())
        options = {"kind": kind, "rnnt_weight": 0.0, "kd_weight": 1.0}
        loss = rnnt_distillation(student, teacher, TEXT, FRAMES, LABELS, **options).loss
        loss.backward()
        found.append((loss.item(), student.weight.grad))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-2, atol=1e-2 * found[0][1].abs().max())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, f"cannot read .*{OUTPUT_LAYER}"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            f"{OUTPUT_LAYER} is damaged: .* remove it and repeat",
        ),
    ],
)
def test_a_damaged_output_layer_is_named(store: Store, damage, message: str) -> None:
    damage(store.directory / OUTPUT_LAYER)
    with pytest.raises(UserError, match=message):
        Store(store.directory).output_layer  # noqa: B018
    assert any(OUTPUT_LAYER in problem for problem in verify(store))


@pytest.mark.parametrize("kind", ["joint", "collapsed", "path"])
def test_an_utterance_of_a_batch_is_stored_without_the_padding_of_the_others(kind: str) -> None:
    """Rows are counted by the utterance's own frames and labels."""
    frames, labels = (12, 10), ([1, 2, 3, 4, 5, 6, 1, 2], [1, 2, 3, 4, 5, 6, 1])
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 12, 5), (2, 9, 5), (7, 5), (7,))
    enc, dec, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    tap = TapFormat(kind, 5 if kind == "joint" else 7, 3 if kind == "path" else 0, 1.0, "float32")
    batch = Targets(Joint(enc, dec, weight, bias), torch.tensor(frames))
    for place, tokens in enumerate(labels):
        t, u = frames[place], len(tokens) + 1
        part = Joint(enc[place : place + 1, :t], dec[place : place + 1, :u], weight, bias)
        single = to_rows(Targets(part, torch.tensor([t])), tap, tokens)
        found = to_rows(alone(batch, place), tap, tokens)
        assert len(found) == len(single)
        for name in single.dtype.names:
            np.testing.assert_allclose(found[name], single[name], rtol=1e-5, atol=1e-5)
