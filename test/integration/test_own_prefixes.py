"""Prefixes that the student decodes itself: what it reads, what its teacher reads, and what is compared."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from recipe import Recipe
from test_mutual import ATT, CTC, batch, build
from test_sampling import REFERENCE, watch
from torch import Tensor, nn

from espnet_kd.criteria import build_criterion
from espnet_kd.errors import UserError
from espnet_kd.methods.sampling import OwnPrefix
from espnet_kd.methods.sampling_model import decode, draw, followers, has_ended
from espnet_kd.schedule import Schedule

END = 6
TAUGHT: dict[str, Any] = {"teacher": {"exp": "exp/teacher"}, "criteria": {"att": ATT}}
ALL = {"student": 1.0}


def student(recipe: Recipe, **changes: Any) -> nn.Module:
    """A student without dropout."""
    model = build(recipe, **{"specaug": None, **TAUGHT, "prefix": ALL, **changes})
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def ready_to_end(model: nn.Module) -> None:
    """Let the decoder prefer tokens that depend on its input, and end some hypotheses early."""
    torch.manual_seed(5)
    with torch.no_grad():
        model.decoder.output_layer.weight.mul_(10.0)
        model.decoder.output_layer.bias.normal_()
        model.decoder.output_layer.bias[END] = 4.0


def test_tokens_are_drawn_from_the_nucleus_as_often_as_they_are_likely() -> None:
    scores = torch.tensor([0.2, 0.5, 0.3]).log().expand(8000, 3)
    torch.manual_seed(0)
    # 0.4 is below the first; 0.6 needs 0.5 and 0.3, of which the first is 5/8; 1 needs all
    for top_p, expected in [(0.4, [0.0, 1, 0]), (0.6, [0.0, 5 / 8, 3 / 8]), (1.0, [0.2, 0.5, 0.3])]:
        shares = draw(scores, top_p).bincount(minlength=3) / 8000
        # 4 standard deviations of a share of 8000; what is impossible never occurs
        torch.testing.assert_close(shares, torch.tensor(expected), rtol=0, atol=0.023)
        assert all(share == 0 for share, p in zip(shares, expected, strict=True) if p == 0)


def test_a_hypothesis_ends_at_its_end_symbol_or_at_the_length_of_the_transcript(recipe: Recipe) -> None:
    model = student(recipe).eval()
    torch.manual_seed(1)
    encoded, frames, lengths = torch.randn(8, 9, 16), torch.tensor([9, 4] * 4), torch.tensor([7, 5, 3, 7] * 2)
    encoded[1::2, 4:] = 100 * torch.randn(4, 5, 16)  # padding, which nothing may read
    inputs = encoded, frames, torch.full((8, 7), END), lengths
    ends = []
    for ready in (False, True):
        if ready:
            ready_to_end(model)
        made = decode(model.decoder, inputs, END)
        for i in range(8):  # one by one, without padding and without a cache
            tokens = [END]
            while len(tokens) < lengths[i] and (len(tokens) == 1 or tokens[-1] != END):
                given = encoded[i : i + 1, : frames[i]], frames[i : i + 1], torch.tensor([tokens])
                logits, _ = model.decoder(*given, torch.tensor([len(tokens)]))
                tokens.append(logits[0, -1].argmax().item())
            assert made[i].tolist() == tokens + [END] * (7 - len(tokens))
            ends.append(tokens[1:].index(END) + 1 if END in tokens[1:] else None)
        assert has_ended(made, END).tolist() == [[u > 0 and row[u] == END for u in range(7)] for row in made]
    assert None in ends[8:] and set(ends[8:]) != {None}, "some end early, some at the length"


def test_tokens_of_a_hypothesis_are_drawn(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    model = student(recipe, prefix={"student": 1.0, "sample": "nucleus", "top_p": 0.7})
    monkeypatch.setattr(
        "espnet_kd.methods.sampling_model.draw", lambda scores, top_p: torch.full((2,), {0.7: 4}[top_p])
    )
    seen = watch(model.decoder)
    model(**batch())
    assert seen[0][0].tolist() == [[END, 4, 4, 4], [END, 4, 4, END]]


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    p = teacher.log_softmax(-1)
    return (p.exp() * (p - student.log_softmax(-1))).sum()


def test_teacher_and_student_are_compared_after_the_same_hypothesis(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two utterances one has a prefix of its own: no cross-entropy, and no divergence after its end."""
    model = student(recipe, prefix={"student": 0.5, "sample": "nucleus"})
    teacher = model.kd_objective.teacher.experiments[0].model
    monkeypatch.setattr(torch, "rand", lambda *size: torch.tensor([0.1, 0.9]))
    made = torch.tensor([[END, 4, END, END]])  # <sos/eos> 4 <sos/eos>: over after two steps
    monkeypatch.setattr("espnet_kd.methods.sampling_model.decode", lambda *_: made)
    seen, taught = watch(model.decoder), watch(teacher.decoder)
    loss, stats, _ = model(**batch())
    (prefix, logits), (theirs, targets) = seen[0], taught[0]
    assert prefix.tolist() == theirs.tolist() == [made[0].tolist(), REFERENCE[1]]
    steps = [logits[0, :2], logits[1, :3]], [targets[0, :2], targets[1, :3]]
    expected = sum(divergence(t, s) for s, t in zip(*steps, strict=True)) / 2
    torch.testing.assert_close(stats["loss_kd_att"][0], expected)
    log_q, smooth = logits[1].log_softmax(-1), 0.1 / 6  # of 7 tokens; the label itself has 0.9
    labels = [5, 3, END]
    entropies = [0.9 * log_q[u, y] + smooth * (log_q[u].sum() - log_q[u, y]) for u, y in enumerate(labels)]
    constant = 3 * (0.9 * torch.tensor(0.9).log() + 0.1 * torch.tensor(smooth).log())
    torch.testing.assert_close(stats["loss_att"][0], (constant - sum(entropies)) / 2)  # divided by both
    torch.testing.assert_close(loss.detach(), stats["loss_task"] + stats["loss_kd_att"])


def test_no_criterion_compares_steps_after_the_end(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    model = student(recipe, task_weight=0.0)
    teacher = model.kd_objective.teacher.experiments[0].model
    made = torch.tensor([[END, 4, END, END], [END, 3, 5, END]])  # of 4 and of 3 steps, the first ends after 2
    monkeypatch.setattr("espnet_kd.methods.sampling_model.decode", lambda *_: made)
    seen, taught = watch(model.decoder), watch(teacher.decoder)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    for options in (
        {"type": "kl", "label_smoothing": 0.1},
        {"type": "topk", "k": 3, "reduction": "mean"},
        {"type": "hidden", "student_dim": 7, "teacher_dim": 7},  # logits as vectors, with a map of its own
    ):
        model.kd_criteria["att"] = criterion = build_criterion(**options)
        value = model(**batch())[1]["loss_kd_att"][0]
        assert seen[-1][0].equal(made)
        expected = criterion(seen[-1][1][:, :3], taught[-1][1][:, :3], mask)
        torch.testing.assert_close(value, expected.detach())


@pytest.mark.parametrize("sample", ["greedy", "nucleus"])
def test_gradient_under_autocast(recipe: Recipe, sample: str) -> None:
    model = student(recipe, prefix={**ALL, "sample": sample}, task_weight=0.0)
    ready_to_end(model)
    seen = watch(model.decoder)
    with torch.autocast("cpu", torch.bfloat16):
        loss, stats, _ = model(**batch())
    loss.sum().backward()
    (prefix, _), *others = seen
    assert not others and prefix[:, 0].tolist() == [END, END] and prefix.tolist() != REFERENCE
    assert stats["loss_kd_att"].dtype == torch.float32 and stats["loss_att"] == 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.decoder.output_layer.parameters())


def test_half_of_the_utterances_are_chosen_again_in_every_batch(recipe: Recipe) -> None:
    model = student(recipe, prefix={"student": 0.5})
    ready_to_end(model)
    seen = watch(model.decoder)
    torch.manual_seed(0)
    for _ in range(12):
        model(**batch())
    own = torch.stack([(prefix != torch.tensor(REFERENCE)).any(1) for prefix, _ in seen])
    assert 0 < own[:, 0].sum() < 12 and 0 < own[:, 1].sum() < 12 and not own[:, 0].equal(own[:, 1])


def test_the_share_grows_and_other_utterances_have_sampled_tokens(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    ramp = {"schedule": "linear", "from": 0.0, "to": 0.5, "begin": 1, "steps": 1}
    model = student(recipe, prefix={"student": ramp}, scheduled_sampling={"probability": 0.1})
    monkeypatch.setattr("espnet_kd.methods.sampling_model.decode", lambda *_: torch.full((1, 4), 4))
    monkeypatch.setattr("espnet_kd.methods.sampling_model.mix", lambda prefix, *_: torch.full_like(prefix, 3))
    monkeypatch.setattr(torch, "rand", lambda *size: torch.tensor([0.4, 0.6]))  # the first is below 0.5
    seen = watch(model.decoder)
    for _ in range(3):
        model(**batch())
    assert [prefix[:, 0].tolist() for prefix, _ in seen] == [[3, 3], [3, 3], [4, 3]]


def test_probability_0_and_validation_are_the_stock_pass(recipe: Recipe) -> None:
    losses, drawn = [], []
    for changes, training in [({"prefix": {}}, True), ({"prefix": {"student": 0}}, True)] + [
        ({"prefix": prefix}, False) for prefix in ({}, ALL)
    ]:
        model = student(recipe, **changes)
        if not training:
            model(**batch())  # leaves nothing behind
        model.train(training)
        torch.manual_seed(0)
        losses.append(model(**batch())[0])
        drawn.append(torch.rand(1))
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[2], losses[3])
    assert all(torch.equal(one, drawn[0]) for one in drawn)


def test_a_teacher_that_cannot_follow_is_refused(recipe: Recipe) -> None:
    model = student(recipe, prefix={})
    own = OwnPrefix(Schedule(1.0, 1.0), None)
    assert len(followers(model, own)) == 1
    model.kd_objective.teacher.maps = [object()]
    with pytest.raises(UserError, match="^prefix: .* has another token list: leave out prefix"):
        followers(model, own)
    model.kd_objective = replace(model.kd_objective, teacher=object())  # as a store, no model
    with pytest.raises(UserError, match="^prefix: stored targets of the decoder are of other prefixes than"):
        followers(model, own)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefix": 0.3}, "0.3 is not a mapping: write `prefix: {student: 0.3, sample: greedy}`"),
        ({"prefix": {"student": 1.5}}, "prefix: student must stay between 0 and 1"),
        ({"prefix": {"sample": "greedy"}}, "prefix: student: None is neither a number nor"),
        ({"prefix": {**ALL, "sample": "beam"}}, "sample is 'beam'; known: greedy, nucleus"),
        ({"prefix": {**ALL, "sample": "nucleus", "top_p": 0}}, "top_p is 0: give a number above 0"),
        ({"prefix": {**ALL, "top_p": 0.5}}, "top_p is for `sample: nucleus`"),
        ({"prefix": {**ALL, "p": 1}}, "prefix: unknown key p; known: student, sample, top_p"),
        ({"criteria": {"ctc": CTC}}, "no criterion with a weight compares the decoder with a teacher's"),
        ({"criteria": {"att": {**ATT, "weight": 0}}}, "no criterion with a weight compares the decoder"),
        ({"teacher": {}, "criteria": {}}, "no criterion with a weight compares the decoder"),
        ({"targets": "hard"}, "(`targets: hard` leaves out all of them)"),
        ({"criteria": {"x": {**ATT, "tap": "decoder.output_layer"}}}, "`prefix` decoder.output_layer runs"),
        (
            {"criteria": {"x": {**ATT, "teacher_tap": "decoder.output_layer"}}},
            "student and teacher are compared by the logits of decoders",
        ),
        ({"teacher": {}, "criteria": {}, "mutual": {"criteria": {"att": ATT}}}, "does not go with mutual"),
        (
            {"decoder": "rnn", "decoder_conf": {}},
            "prefix: the model has RNNDecoder decoder: it works with Transformer decoders",
        ),
        ({"model_conf": {"length_normalized_loss": True}}, "leave out `length_normalized_loss`"),
        (
            {"consistency": {"criteria": {"att": ATT}}, "specaug": "specaug"},
            "criterion att: with prefix each view has a prefix of its own",
        ),
    ],
)  # fmt: skip
def test_refused_in_one_line(recipe: Recipe, changes: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        student(recipe, **changes)
    assert message in str(error.value) and "\n" not in str(error.value)
