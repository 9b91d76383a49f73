"""Weights as functions of the step alone."""

import pytest

from espnet_kd.errors import UserError
from espnet_kd.schedule import build_schedule, stretched, unreached


def test_a_number_is_constant() -> None:
    weight = build_schedule(0.3, "w")
    assert [weight(step) for step in (0, 5, 1e9)] == [0.3, 0.3, 0.3]
    assert not weight.is_zero and build_schedule(0, "w").is_zero


def test_linear() -> None:
    weight = build_schedule({"schedule": "linear", "from": 1.0, "to": 0.0, "begin": 10, "steps": 4}, "w")
    # 1 until step 10, then a quarter less each step
    assert [weight(step) for step in (0, 10, 11, 12, 14, 99)] == [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]
    assert not weight.is_zero


def test_cosine() -> None:
    weight = build_schedule({"schedule": "cosine", "from": 2.0, "to": 1.0, "steps": 3}, "w")
    # (1 - cos(pi/3)) / 2 = 1/4 of the way after a third of the steps, 3/4 after two
    assert [weight(step) for step in (0, 1, 2, 3)] == pytest.approx([2.0, 1.75, 1.25, 1.0])


def test_warmup_starts_at_zero() -> None:
    weight = build_schedule({"schedule": "warmup", "to": 0.5, "steps": 5}, "w")
    assert [weight(step) for step in (0, 1, 5, 6)] == pytest.approx([0.0, 0.1, 0.5, 0.5])


def test_numbers_that_are_text_to_yaml() -> None:
    weight = build_schedule({"from": "1e0", "to": "5e-1", "begin": "1e1", "steps": 2e1}, "w")
    assert [weight(step) for step in (10, 20, 30)] == [1.0, 0.75, 0.5]
    assert build_schedule("1e-1", "w")(0) == 0.1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1e-1x", "neither a number nor a mapping"),
        (True, "neither a number"),
        (float("nan"), "not a finite number"),
        ({"to": 1, "steps": 5}, "a linear schedule needs from, to and steps"),
        ({"schedule": "warmup", "to": 1}, "a warmup schedule needs to and steps"),
        ({"from": 0, "to": 1, "steps": 0}, "w.steps: 0 is not a whole number of batches from 1 up"),
        ({"from": 0, "to": 1, "steps": 0.5}, "w.steps: 0.5 is not a whole number of batches from 1 up"),
        ({"from": 0, "to": 1, "steps": 10.5}, "w.steps: 10.5 is not a whole number"),
        ({"from": 0, "to": 1, "steps": 1, "begin": -2}, "w.begin: -2 is not a whole number of batches"),
        ({"from": 0, "to": 1, "steps": 1, "begin": 2.5}, "w.begin: 2.5 is not a whole number"),
        (-0.5, "w: -0.5 is below 0"),
        ({"from": 0, "to": -1, "steps": 1}, "w.to: -1 is below 0"),
        ({"schedule": "warmup", "from": 5, "to": 1, "steps": 1}, "w.from: a warmup begins at 0, not at 5.0"),
        ({"from": 0, "to": "x", "steps": 1}, "w.to: 'x' is not a finite number"),
        ({"schedule": "step", "from": 0, "to": 1, "steps": 1}, "known: linear, cosine, warmup"),
        ({"from": 0, "to": 1, "stops": 1}, "unknown key stops"),
    ],
)
def test_refused(value: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        build_schedule(value, "w")
    assert message in str(error.value)


def test_schedules_of_a_configuration_are_stretched() -> None:
    criteria = {"a": {"type": "kl", "k": 8, "weight": {"to": 1.0, "from": 0.0, "begin": 100, "steps": 1}}}
    found = stretched(criteria, 4.0)
    assert found["a"] == {"type": "kl", "k": 8, "weight": {"to": 1.0, "from": 0.0, "begin": 400, "steps": 1}}
    assert stretched([0.5, {"to": 1.0, "steps": "1e2"}], 0.5) == [0.5, {"to": 1.0, "steps": 50}]
    assert criteria["a"]["weight"]["begin"] == 100
    assert stretched({"steps": 5, "begin": 5}, 2) == {"steps": 5, "begin": 5}  # no schedule
    assert stretched({"target": 0.5, "end": 30}, 2) == {"target": 0.5, "end": 60}  # of `prune`, from 0 on
    assert stretched({"begin": 1, "end": 3}, 0.25) == {"begin": 1, "end": 2}
    assert stretched({"begin": 8, "end": 9}, 0.25) == {"begin": 2, "end": 3}  # 2 and 2.25 would both be 2


@pytest.mark.parametrize(
    ("value", "batches", "state"),
    [
        ({"weight": {"from": 0.0, "to": 0.5, "begin": 600, "steps": 1200}}, 7, "has not begun"),
        ({"weight": {"from": 0.0, "to": 0.5, "begin": 600, "steps": 1200}}, 1799, "is not through"),
        ({"weight": {"from": 0.0, "to": 0.5, "begin": 600, "steps": 1200}}, 1800, None),
        ({"weight": {"schedule": "warmup", "to": 0.5, "steps": "1e2"}}, 99, "is not through"),
        ({"weight": {"from": 0.5, "to": 0.5, "begin": 600, "steps": 1}}, 7, None),  # constant
        ({"weights": "int8", "begin": 7}, 7, "has not begun"),  # quantise
        ({"weights": "int8", "begin": 6}, 7, None),
        ({"target": 0.5, "end": 8}, 7, "is not through"),  # prune
        ({"target": 0.5, "end": 7}, 7, None),
        ({"peers": [{"encoder_conf": {}}], "weight": 0.5}, 7, None),
    ],
)
def test_what_a_training_ends_before_is_named(value: dict, batches: int, state: str | None) -> None:
    notes = unreached({"mutual": value, "task_weight": 1.0, "nbest": None}, batches)
    assert len(notes) == (state is not None)
    assert all(note.startswith("mutual") and f"the change {state};" in note for note in notes)
