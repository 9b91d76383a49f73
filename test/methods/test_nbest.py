"""Hypotheses of records in a batch, and the option ``nbest``."""

import json
import logging
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from espnet_kd.decoding.records import DecodedUtterance, Hypothesis, to_json
from espnet_kd.errors import UserError
from espnet_kd.methods import active
from espnet_kd.methods.nbest import WithHypotheses, check_lengths, check_lists, check_records, nbest_options
from espnet_kd.schedule import Schedule

LISTS = {
    "a": [("AB", -1.0), ("A", -2.0), ("AB", -3.0), ("B", -4.0), ("BB", -5.0)],
    "b": [("B", -0.5)],
    "c": [],
}


def write(directory: Path, lists: dict[str, list[tuple[str, float | None]]]) -> str:
    directory.mkdir()
    records = [
        DecodedUtterance(utt, 16000, 16000, tuple(Hypothesis(text, len(text), 0, s) for text, s in found))
        for utt, found in lists.items()
    ]
    (directory / "00001.jsonl").write_text("".join(to_json(r) + "\n" for r in records))
    (directory / "settings.json").write_text(json.dumps({"shards": 1}))
    return str(directory)


def student(utt: str, data: dict) -> dict:
    """Turn a text into the numbers of its letters, and nothing else."""
    return {**data, "text": np.array([ord(x) - ord("A") + 3 for x in data["text"]])}


def test_an_utterance_gets_its_best_hypotheses_each_text_once(tmp_path: Path) -> None:
    records = write(tmp_path / "records", LISTS)
    prepare = WithHypotheses(student, nbest_options({"records": records, "hypotheses": 3}))
    found = prepare("a", {"text": "BA", "speech": np.zeros(4)})
    assert found["text"].tolist() == [4, 3] and "speech" in found
    assert found["nbest_tokens"].T.tolist() == [[3, 4], [3, -1], [4, -1]]
    assert found["nbest_counts"].tolist() == [2, 1, 1] and found["nbest_scores"].tolist() == [-1, -2, -4]
    for utt, scores in (("b", [-0.5, -np.inf, -np.inf]), ("c", [-np.inf] * 3), ("other", [-np.inf] * 3)):
        found = prepare(utt, {"text": "A"})
        assert found["nbest_scores"].tolist() == scores and found["nbest_tokens"].shape == (1, 3)


@pytest.mark.parametrize(
    ("utt", "text"),
    [("sp1.1-pseudo-a", "AB"), ("copy2-a", "AB"), ("pseudo-copy2-a", "AB"), ("sp0.9-pseudo-copy3-a", "AB"),
     ("sp0.9-b", "A"), ("copy2-sp0.9-b", "A"), ("pseudo-copy2-sp0.9-b", "A"), ("sp1.1-b", "B")],
)  # fmt: skip
def test_a_copy_has_the_hypotheses_of_its_utterance(tmp_path: Path, utt: str, text: str) -> None:
    """Copies of `mix` have a number after the prefix, those of `perturb` a speed before it."""
    records = write(tmp_path / "records", {**LISTS, "sp0.9-b": [("A", -0.5)]})
    assert WithHypotheses(student, nbest_options({"records": records})).hypotheses(utt)[0][0] == text


def test_texts_of_the_same_tokens_are_one_hypothesis(tmp_path: Path) -> None:
    """A student that does not know case would have "AB" twice in the sum of its probabilities."""
    records = write(tmp_path / "records", {"a": [("AB", -1.0), ("Ab", -1.5), ("B", -2.0)]})
    unaware = lambda utt, data: student(utt, {**data, "text": data["text"].upper()})  # noqa: E731
    found = WithHypotheses(unaware, nbest_options({"records": records}))("a", {"text": "A"})
    assert found["nbest_tokens"].T.tolist() == [[3, 4], [4, -1], [-1, -1], [-1, -1]]
    assert found["nbest_scores"].tolist() == [-1, -2, -np.inf, -np.inf]


class WithTargets:
    """Adds targets of the speech, as of a store or for a teacher of another sampling rate."""

    student = staticmethod(student)

    def __call__(self, utt: str, data: dict) -> dict:
        return {**student(utt, data), "targets": data["speech"] + 1}


def test_targets_are_of_the_utterance_and_not_of_its_hypotheses(tmp_path: Path) -> None:
    prepare = WithHypotheses(WithTargets(), nbest_options({"records": write(tmp_path / "records", LISTS)}))
    found = prepare("a", {"text": "A", "speech": np.zeros(4)})
    assert found["targets"].tolist() == [1] * 4 and found["nbest_counts"].tolist() == [2, 1, 1, 2]


def test_records_of_other_utterances_are_refused(tmp_path: Path) -> None:
    records = write(tmp_path / "records", LISTS)
    (method,) = active({"nbest": {"records": records}})
    table = tmp_path / "wav.scp"
    args = Namespace(
        nbest={"records": records},
        train_data_path_and_name_and_type=[(str(table), "speech", "sound")],
        token_list=["<blank>", "<unk>", "<space>", "A", "B"],
    )
    for ids, fits in (("x sp0.9-a", True), ("x c", False)):  # c has no hypothesis
        table.write_text("".join(f"{utt} {utt}.wav\n" for utt in ids.split()))
        if fits:
            assert method.preprocess(args, True, student)("sp0.9-a", {"text": "A"})["nbest_counts"].any()
            continue
        with pytest.raises(UserError, match="nbest: .*records has no hypotheses of the utterances of"):
            method.preprocess(args, True, student)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [("a 16000", True), ("copy2-a 17500,1", True), ("sp0.8-a 20000", True),
     ("pseudo-copy1-sp1.25-a 12800", True),
     ("other 5", True), ("c 5", True), ("a 20000", False), ("sp0.8-a 16000", False)],
)  # fmt: skip
def test_records_of_other_speech_of_the_same_name_are_refused(tmp_path: Path, shape: str, fits: bool) -> None:
    """Records are of one second; c has no hypothesis, and other no record."""
    prepare = WithHypotheses(student, nbest_options({"records": write(tmp_path / "records", LISTS)}))
    (tmp_path / "speech_shape").write_text(f"{shape}\n")
    shapes = {"train_shape_file": [str(tmp_path / "speech_shape")], "frontend": "default"}
    args = Namespace(**shapes, frontend_conf={"fs": "16k"}, input_size=None)
    if fits:
        return check_lengths(prepare, args)
    with pytest.raises(UserError, match=r"nbest: .*a has 1\... s in .*_shape, and by its hypotheses in"):
        check_lengths(prepare, args)
    args.input_size = 80
    check_lengths(prepare, args)


def numbered(utt: str, data: dict) -> dict:
    """Turn a text into tokens: A is 3, B is 4, and all other letters are unknown."""
    return {**data, "text": np.array([{"A": 3, "B": 4}.get(x, 1) for x in data["text"]])}


def tried(tmp_path: Path, lists: dict[str, list[tuple[str, float]]], count: int = 4) -> None:
    records = write(tmp_path / "records", lists)
    prepare = WithHypotheses(numbered, nbest_options({"records": records, "hypotheses": count}))
    check_lists(prepare, {utt: len(prepare.hypotheses(utt)) for utt in [*lists, "other"]}, unknown=1)


def test_lists_are_counted_before_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of the lists a (AB, A, B, BB) and d (A, ABC) one of ten tokens is unknown; b has nothing to compare."""
    lists = {**LISTS, "d": [("A", -1.0), ("ABC", -2.0)]}
    with caplog.at_level(logging.INFO):
        tried(tmp_path, lists, 5)
    assert "3 of 5 utterances have hypotheses, 2 at least two; 10.0% of their tokens are" in caplog.text
    assert "hypotheses is 5, but" in caplog.text and "at most 4 different ones" in caplog.text
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"a": [("A", -1.0)], "b": [("B", -0.5)]}, "nbest: no list in .*records has two hypotheses of"),
        ({"a": [("AC", -1.0), ("AD", -2.0)]}, "nbest: no list in .*records has two hypotheses of different"),
        (
            {"a": [("ab a", -1.0), ("ab b", -2.0)]},
            "nbest: 100% of the tokens of .*records are unknown .* in 'ab a' for a: .* `normalise: .upper.`",
        ),
    ],
)
def test_lists_from_which_nothing_is_learned_are_refused(tmp_path: Path, lists: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tried(tmp_path, lists)


def test_where_records_are(tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    dst.mkdir()
    (tmp_path / "file").touch()
    wrong = {"missing": "does not exist", "file": "is no directory", "dst": "has no decoded hypotheses"}
    for place, problem in wrong.items():
        with pytest.raises(UserError, match=f"nbest: .*/{place} {problem}.*: give the --decode_dir of"):
            check_records(tmp_path / place)
    decoded = write(dst / "decode", LISTS)
    with pytest.raises(UserError, match="nbest: .*dst has pseudo-labels: their hypotheses are in .*/decode"):
        check_records(dst)
    check_records(Path(decoded))
    (Path(decoded) / "00001.jsonl").write_text("x\n")
    with pytest.raises(UserError, match="nbest: .*00001.jsonl:1 is not a decoded utterance"):
        WithHypotheses(student, nbest_options({"records": decoded}))


def test_hypotheses_are_brought_into_the_students_form(tmp_path: Path) -> None:
    records = write(tmp_path / "records", {"a": [("ab", -1.0), ("AB", -2.0), ("b", -3.0)]})
    prepare = WithHypotheses(student, nbest_options({"records": records, "normalise": ["upper"]}))
    assert prepare.hypotheses("a") == [("AB", -1.0), ("B", -3.0)]


def test_records_without_scores_are_refused(tmp_path: Path) -> None:
    records = write(tmp_path / "records", {"a": [("A", None)]})
    with pytest.raises(UserError, match="nbest: a in .*records has a hypothesis without a score"):
        WithHypotheses(student, nbest_options({"records": records}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("x", "nbest: 'x' is not a mapping"),
        ({}, "nbest: records is None: give the directory"),
        ({"records": "r", "hypotheses": 1}, "nbest: hypotheses is 1: give a whole number from 2 to 64"),
        ({"records": "r", "tap": "decoder"}, "nbest: tap is 'decoder': give the CTC layer"),
        ({"records": "r", "weight": -1}, "nbest: weight: -1 is below 0"),
        ({"records": "r", "normalise": "up"}, "nbest: normalise is 'up': give a list of steps"),
        ({"records": "r", "normalise": ["up"]}, "^nbest: normalise: up: no such step; known are"),
        ({"records": "r", "k": 2}, "nbest: .*k"),
    ],
    ids=str,
)
def test_wrong_options(options: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        nbest_options(options)


def test_at_weight_0_nothing_is_added_and_the_label_is_empty() -> None:
    for weight, label in ((0.0, ""), (0.5, "4-best lists")):
        config = {"nbest": {"records": "r", "weight": weight}}
        (method,) = active(config)
        assert method.label(config) == label and method.distils(config) == bool(label)
    assert method.preprocess(Namespace(**config), False, student) is student


def test_other_methods_are_refused() -> None:
    (method,) = active({"nbest": {"records": "r"}})
    args = Namespace(nbest={"records": "r"}, mutual={}, consistency={"criteria": {}})
    with pytest.raises(UserError, match="nbest: it does not go with `consistency`: leave out one of them"):
        method.check(args, 7)


def test_the_weight_is_that_of_the_batch_where_the_model_counts_batches_itself() -> None:
    """At batch 0 the weight is 1, from batch 1 on 0; a distilled model counts before it returns."""
    from espnet_kd.methods.nbest_model import LearnsLists, ListPlan  # imports ESPnet, which takes seconds

    class Distilled:
        training, kd_step = True, 0

        def forward(self, *_: object, **__: object) -> tuple[torch.Tensor, dict, torch.Tensor]:
            self.kd_step += 1
            return torch.zeros(1), {}, torch.ones(1)

    class Student(LearnsLists, Distilled):
        _frames = _of_lists = lambda self, *_: None
        taps = SimpleNamespace(recording=nullcontext, release=lambda: None)
        kd_lists = ListPlan(lambda *_: torch.tensor(3.0), Schedule(1.0, 0.0), "ctc.ctc_lo", taps)

    lists = {"nbest_tokens": torch.ones(1, 1, 2), "nbest_counts": torch.ones(1, 2)}
    student = Student()
    for expected in (3.0, 0.0):
        assert student.forward(None, None, **lists, nbest_scores=torch.zeros(1, 2))[0] == expected
