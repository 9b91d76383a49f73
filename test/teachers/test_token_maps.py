"""A teacher with the student's tokens in another order, or with more or fewer, gives the same posteriors."""

import pytest
import torch

from bench.stand_in_device import DEVICE, counted
from espnet_kd.criteria import TopClasses
from espnet_kd.errors import UserError
from espnet_kd.rnnt import Joint
from espnet_kd.teachers.taps import Targets
from espnet_kd.teachers.token_maps import ABSENT, map_text, map_tokens

OURS = ["<blank>", "a", "b", "<sos/eos>"]
OWNER = "teacher exp/t"


def values(*rows: list[float]) -> dict[str, Targets]:
    return {"ctc.ctc_lo": Targets(torch.tensor([rows]), torch.tensor([len(rows)]))}


def test_the_same_list_needs_no_map() -> None:
    assert map_tokens(OURS, list(OURS), ["ctc.ctc_lo"], None, OWNER) is None


def test_another_order() -> None:
    found = map_tokens(OURS, ["<blank>", "b", "<sos/eos>", "a"], ["ctc.ctc_lo"], "criterion att", OWNER)
    assert found is not None and found.numbers.tolist() == [0, 3, 1, 2]
    assert found.text(torch.tensor([[1, 2, -1]])).tolist() == [[3, 1, -1]]  # a b
    seen = found.targets(values([0.0, 1.0, 2.0, 3.0]))["ctc.ctc_lo"]
    assert seen.tensor.tolist() == [[[0.0, 3.0, 1.0, 2.0]]] and seen.lengths.tolist() == [1]


def test_a_teacher_with_more_tokens_is_restricted_to_the_students() -> None:
    """Its posteriors are renormalised: e, 1, e^2, 1 of the student's tokens."""
    found = map_tokens(OURS, ["<blank>", "c", "b", "a", "<sos/eos>"], ["ctc.ctc_lo"], "criterion att", OWNER)
    assert found is not None
    seen = found.targets(values([1.0, 9.0, 2.0, 0.0, 0.0]))["ctc.ctc_lo"].tensor
    expected = torch.tensor([1.0, 0.0, 2.0, 0.0]).softmax(-1)
    torch.testing.assert_close(seen.softmax(-1)[0, 0], expected)


def test_a_teacher_with_fewer_tokens_gives_the_others_no_posterior() -> None:
    found = map_tokens(OURS, ["<blank>", "a", "<sos/eos>"], ["ctc.ctc_lo"], None, OWNER)
    assert found is not None
    seen = found.targets(values([0.0, 0.0, 0.0]))["ctc.ctc_lo"].tensor
    assert seen.tolist() == [[[0.0, 0.0, ABSENT, 0.0]]] and seen.softmax(-1)[0, 0, 2] == 0
    # p log p stays finite: 3 * 1/3 ln 3
    assert -(seen.softmax(-1) * seen.log_softmax(-1)).sum() == pytest.approx(1.0986, abs=1e-4)


def test_vectors_of_another_size_are_not_taken_for_logits() -> None:
    """Five features, of which four would be taken for tokens."""
    found = map_tokens(OURS, ["<blank>", "b", "a", "<sos/eos>"], ["encoder"], None, OWNER)
    seen = {"encoder": Targets(torch.zeros(1, 2, 5), torch.tensor([2]))}
    assert found is not None
    with pytest.raises(UserError, match="encoder of the teacher has 5 values .* has 4 tokens: choose a tap"):
        found.targets(seen)


def test_hidden_vectors_are_left_alone() -> None:
    found = map_tokens(OURS, ["<blank>", "b", "a", "<sos/eos>"], [], "criterion h", OWNER)
    seen = values([0.0, 1.0, 2.0, 3.0])
    assert found is not None and found.targets(seen)["ctc.ctc_lo"] is seen["ctc.ctc_lo"]


def test_the_output_layer_of_a_lattice() -> None:
    found = map_tokens(OURS, ["<blank>", "b", "<sos/eos>"], ["joint"], None, OWNER)
    generator = torch.Generator().manual_seed(0)
    enc, dec, weight = (torch.randn(shape, generator=generator) for shape in ((1, 2, 5), (1, 3, 5), (3, 5)))
    joint = Joint(enc, dec, weight, torch.tensor([0.1, 0.2, 0.3]))
    assert found is not None
    mapped = found.targets({"joint": Targets(joint, torch.tensor([2]))})["joint"].joint

    def logits(of: Joint) -> torch.Tensor:
        return (of.enc[:, :, None] + of.dec[:, None]).tanh() @ of.weight.T + of.bias

    posteriors = logits(joint).softmax(-1)
    blank, b, end = posteriors.unbind(-1)
    expected = torch.stack([blank, torch.zeros(1, 2, 3), b, end], -1)
    torch.testing.assert_close(logits(mapped).softmax(-1), expected)


@pytest.mark.parametrize(
    ("theirs", "reads", "message"),
    [
        (["<blank>", "a", "c", "<sos/eos>"], None, "token 2 is 'b' for the student, 'c' for .*, and neither"),
        (["a", "<blank>", "b", "<sos/eos>"], None, "token 0 is '<blank>' for the student"),
        (["<blank>", "a", "<sos/eos>"], "criterion att", "att makes teacher exp/t read .* 'b' of"),
        (["<blank>", "a", "a", "b", "<sos/eos>"], None, "teacher exp/t has a token twice"),
    ],
)
def test_lists_that_cannot_be_mapped(theirs: list[str], reads: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        map_tokens(OURS, theirs, ["ctc.ctc_lo"], reads, OWNER)


def test_special_tokens_of_one_list_alone_do_not_matter() -> None:
    """Those of transformers: its blank is elsewhere."""
    theirs = ["<s>", "a", "b", "<unk>", "<blank>"]
    found = map_tokens(OURS, theirs, ["lm_head"], None, OWNER, blank=4)
    assert found is not None and found.numbers.tolist() == [4, 1, 2, -1]
    with pytest.raises(UserError, match="token 0 is '<blank>' for the student"):
        map_tokens(OURS, theirs, ["lm_head"], None, OWNER)


def test_stored_classes_of_another_order() -> None:
    found = map_tokens(OURS, ["<blank>", "b", "<sos/eos>", "a"], ["ctc.ctc_lo"], None, OWNER)
    top = TopClasses(torch.tensor([[[3, 1]]]), torch.tensor([[[-0.1, -2.0]]]))
    assert found is not None
    seen = found.targets({"ctc.ctc_lo": Targets(top, torch.tensor([1]))})["ctc.ctc_lo"].values
    assert seen.tokens.tolist() == [[[1, 2]]] and seen.log_probs is top.log_probs
    # Frames of padding, as a batch of a training has them: all bits are 1.
    padded = TopClasses(torch.tensor([[[3, 1], [255, 255]]]), torch.zeros(1, 2, 2))
    mapped = found.targets({"ctc.ctc_lo": Targets(padded, torch.tensor([1]))})["ctc.ctc_lo"].values
    assert mapped.tokens[:, :1].tolist() == [[[1, 2]]]


def test_nothing_waits_for_a_gpu() -> None:
    found = map_tokens(OURS, ["<blank>", "b", "<sos/eos>", "a"], ["a", "b", "joint"], None, OWNER)
    assert found is not None
    with counted() as counts:
        x = torch.randn(1, 2, 4).to(DEVICE)
        top = TopClasses(torch.zeros(1, 2, 3, dtype=torch.long).to(DEVICE), x[..., :3])
        text = torch.ones(1, 2, dtype=torch.long).to(DEVICE)
        joint = Joint(x, x, x[0, :1].expand(4, 4), x[0, 0])
        counts.waits.clear()
        found.targets({tap: Targets(values, torch.tensor([2])) for tap, values in
                       {"a": x, "b": top, "joint": joint}.items()})  # fmt: skip
        found.text(text)
    assert not counts.waits


def test_texts_in_tokens_of_another_case() -> None:
    found = map_text(["<blank>", "<unk>", "\u2581the", "A", "<sos/eos>"],
                     ["<blank>", "\u0120The", "a", "<eos>", "<unk>"], "criterion att", OWNER)  # fmt: skip
    assert found is not None and found.numbers.tolist() == [0, 4, 1, 2, -1] and not found.logits
    assert map_text(OURS, list(OURS), "criterion att", OWNER) is None
    with pytest.raises(UserError, match="exp/t read transcripts, but has nothing for 'b' of the student"):
        map_text(OURS, ["<blank>", "a", "<sos/eos>"], "criterion att", OWNER)
