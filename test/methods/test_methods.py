"""The registry of methods, and what the report asks of it."""

import argparse
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from source import ROOT

from espnet_kd.errors import UserError
from espnet_kd.methods import METHODS, active, idle_keys, refuse_adapters, registered
from espnet_kd.methods.consistency import consistency_options
from espnet_kd.methods.distillation import DistillationMethod, check_transcripts, obstacle
from espnet_kd.methods.distilled import Distillation
from espnet_kd.methods.fit import _check_classes
from espnet_kd.methods.method import Method
from espnet_kd.methods.mutual import mutual_options
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.options import Term, check_k, term_options

TEACHER = {"teacher": {"exp": "exp/t"}, "criteria": {"ctc": {}}}
LABELS = """
import sys
from espnet_kd.methods import active
configs = [{"teacher": {"exp": "a"}, "criteria": {"ctc": {}}}, {"mutual": {"peers": 2, "peer": 2}}]
configs.append({"consistency": {"criteria": {"ctc": {"weight": 0.2}}}})
print([method.label(config) for config in configs for method in active(config)])
assert not {"torch", "espnet", "espnet2"} & set(sys.modules)
"""


def test_every_method_is_a_method_and_has_its_keys_as_options() -> None:
    for method, keys in zip(registered(), METHODS.values(), strict=True):
        assert isinstance(method, Method)
        parser = argparse.ArgumentParser()
        parser.register("action", "mapping", argparse._StoreAction)
        method.add_arguments(parser)
        assert set(keys) <= {action.dest for action in parser._actions}


def test_a_method_is_used_where_one_of_its_keys_says_something() -> None:
    none = dict.fromkeys(key for keys in METHODS.values() for key in keys)
    assert active(none | {"mutual": {}, "criteria": {}, "share_per_batch": False}) == []
    assert [type(method).__name__ for method in active(none | TEACHER)] == ["DistillationMethod"]
    both = active({"scheduled_sampling": {"probability": 0.1}, "mutual": {"peers": 2}})
    assert [type(method).__name__ for method in both] == ["MutualMethod", "SamplingMethod"]


@pytest.mark.parametrize(
    ("options", "target", "expected"),
    [
        ({"quantise": {"weights": "int8"}}, "linear_q", "use_adapter: quantise would leave out the adapters"),
        ({"prune": {"target": 0.5, "end": 2}}, "w_1", "use_adapter: prune would leave out the adapters"),
        ({}, "lin_out", "use_adapter: the RNN-T loss would leave out the adapters"),
    ],
)
def test_adapters_in_place_of_layers_that_we_use(options: dict, target: str, expected: str) -> None:
    adapters = {"use_adapter": True, "adapter_conf": {"target_modules": [target]}}
    with pytest.raises(UserError, match=expected):
        refuse_adapters(argparse.Namespace(**adapters, **options))
    refuse_adapters(argparse.Namespace(**adapters | {"use_adapter": False}, **options))
    refuse_adapters(argparse.Namespace(use_adapter=True, adapter_conf={}, **TEACHER))


@pytest.mark.parametrize("saved", ["adapter_only", "required_grad_only"])
def test_adapters_alone_are_no_model_that_can_be_decoded(saved: str) -> None:
    """ESPnet trains all of the model, and decodes with what its file has and random values for the rest."""
    args = argparse.Namespace(use_adapter=True, adapter_conf={}, save_strategy=saved)
    with pytest.raises(UserError, match=f"^save_strategy: {saved} leaves a part of the model out"):
        refuse_adapters(args)
    args.use_adapter = False  # ESPnet saves all then
    refuse_adapters(args)


def test_a_method_that_changes_nothing_is_idle() -> None:
    for idle in ({"scheduled_sampling": {"probability": 0}}, {"prefix": {"student": 0}}):
        assert idle_keys(idle) == {"scheduled_sampling", "prefix"}
    assert idle_keys({"scheduled_sampling": {"probability": 0.1}, **TEACHER}) == set()


@pytest.mark.parametrize(
    ("config", "label", "distils"),
    [
        ({**TEACHER, "targets": "soft"}, "ctc, soft targets", True),
        ({**TEACHER, "targets": "hard"}, "hard targets", True),
        ({**TEACHER, "init_from_teacher": {"encoder": True}}, "ctc, initialised from the teacher", True),
        ({"mutual": {"peers": 2}}, "mutual learning", True),
        ({"mutual": {"peers": 2, "peer": 2}}, "mutual learning, peer 2", True),
        ({"scheduled_sampling": {"probability": 0.1}}, "", False),
        ({"share_per_batch": True}, "", False),
        ({"quantise": {"begin": 100}}, "for int8", False),
        ({"prune": {"target": 0.5, "end": 100}}, "pruned by 50 %", False),
        ({"prune": {"target": "5e-1", "end": 100}}, "pruned by 50 %", False),
        ({"consistency": {"criteria": {"ctc": {"type": "kl"}, "att": {}}}}, "consistency ctc att", False),
        ({"consistency": {"criteria": {"ctc": {"weight": 0}}}}, "", False),
    ],
)
def test_the_label_of_a_method(config: dict, label: str, distils: bool) -> None:
    (method,) = active(config)
    assert method.label(config) == label and method.distils(config) is distils


def test_passes_over_the_encoder_are_counted() -> None:
    views = {"criteria": {"ctc": {"type": "kl"}}, "views": 3}
    for consistency, passes in [
        (views, 1),
        ({**views, "split_batches": False}, 3),
        ({"criteria": {"ctc": {}}, "split_batches": False}, 2),
        ({"criteria": {"ctc": {"weight": 0}}, "split_batches": False}, 1),
    ]:
        (method,) = active({"consistency": consistency})
        assert method.passes({"consistency": consistency}) == passes
    (method,) = active({"mutual": {"peers": 2}})
    assert method.passes({"mutual": {"peers": 2}}) == 1


PLUGIN = """
from espnet_kd.methods.method import Method

class Penalty(Method):
    def label(self, config):
        return "penalty"

function = print
"""
USE = """
import sys
from espnet_kd.methods import SCHEDULED, active
print([method.label({}) for method in active({sys.argv[1]: {"weight": 1}})], sys.argv[1] in SCHEDULED)
"""


@pytest.mark.parametrize(
    ("key", "result"),
    [
        ("weight_penalty", r"\['penalty'\] True"),
        ("not_one", "kd_method:function is no method: derive a class from espnet_kd.methods.method.Method"),
        ("absent", "method kd_method:Absent of another package does not load: .*; repair or uninstall its"),
    ],
)
def test_a_method_of_another_package(tmp_path, key: str, result: str) -> None:
    (tmp_path / "kd_method.py").write_text(PLUGIN)
    info = tmp_path / "kd_method-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kd-method\nVersion: 1.0\n")
    entries = "weight_penalty = kd_method:Penalty\nnot_one = kd_method:function\nabsent = kd_method:Absent\n"
    (info / "entry_points.txt").write_text(f"[espnet_kd.methods]\n{entries}")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command, environment = [sys.executable, "-c", USE, key], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert re.search(result, done.stdout + done.stderr)


def test_labels_are_there_without_torch_and_espnet() -> None:
    result = subprocess.run([sys.executable, "-c", LABELS], capture_output=True, text=True, check=True)
    assert result.stdout == "['ctc', 'mutual learning, peer 2', 'consistency ctc']\n"


def test_what_a_training_learns_from_its_teacher_is_named(tmp_path) -> None:
    exp, store = tmp_path / "exp", tmp_path / "store"
    for path in (exp / "config.yaml", exp / "valid.acc.ave.pth", exp / "1epoch.pth", store / "manifest.json"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for given in (str(exp), [str(exp)]):
        config = {"teacher": {"exp": given, "store": str(store)}}
        (method,) = active(config)
        assert method.inputs(config) == {
            f"teacher {exp}": [exp / "config.yaml", exp / "valid.acc.ave.pth"],
            "target store": [store / "manifest.json"],
        }
    (exp / "valid.acc.ave.pth").unlink()  # as a packed model, whose only file is taken
    assert method.inputs(config)[f"teacher {exp}"] == [exp / "1epoch.pth", exp / "config.yaml"]


def test_hidden_vectors_are_not_taken_for_logits() -> None:
    """Two models of one width would train on the softmax of their features without a word."""
    criteria = {"criteria": {"enc": {"type": "kl", "tap": "encoder"}}}
    for options in (consistency_options, mutual_options):
        with pytest.raises(UserError, match="criterion enc: .* logits at one .*: give type and tap"):
            options(criteria)
    term, values = Term("enc", Schedule(1.0, 1.0), "encoder", "encoder"), torch.zeros(1, 2, 16)
    with pytest.raises(UserError, match="enc: encoder of the student has 16 values at a position, but there"):
        _check_classes(term, values, values, tokens=7)
    _check_classes(term, values, values, tokens=None)  # a plug-in may compare anything


@pytest.mark.parametrize("options", [consistency_options, mutual_options])
@pytest.mark.parametrize(
    "criterion", [{"type": "sequence", "tap": "ctc.ctc_lo"}, {"type": "transducer", "kind": "sequence"}]
)
def test_probabilities_of_labels_have_no_positions_to_compare(options, criterion: dict) -> None:
    with pytest.raises(UserError, match="criterion c: posteriors are compared position by position"):
        options({"criteria": {"c": criterion}})


def test_a_weight_of_all_views_belongs_into_each_criterion() -> None:
    with pytest.raises(UserError, match="consistency: weight belongs in each criterion: write `criteria:"):
        consistency_options({"weight": 0.2, "criteria": {"ctc": {"type": "kl", "tap": "ctc.ctc_lo"}}})


@pytest.mark.parametrize(
    ("key", "message"),
    [("prefix", "write it at the top level of the configuration"), ("hypotheses", "`nbest: {records:")],
)
def test_keys_of_methods_are_sent_to_where_they_belong(key: str, message: str) -> None:
    with pytest.raises(UserError, match=f"criteria: a: {key} is no option of a criterion: .*{message}"):
        term_options({"a": {"type": "transducer", "kind": "sequence", key: 4}})


def test_the_blank_is_no_class_of_a_decoder() -> None:
    def check(**options: str) -> None:
        check_k(term_options({"a": {"type": "decoupled_kl", "tap": "decoder", **options}}), 7)

    check(target_class="top")
    check(tap="ctc.ctc_lo")
    with pytest.raises(UserError, match="criterion a: `target_class: blank`, .*: give target_class: top"):
        check()


def test_a_task_that_weighs_nothing_may_be_infinite() -> None:
    """As CTC is where an utterance is too short for its text, without zero_infinity; 0 times that is NaN."""
    student = SimpleNamespace(kd_objective=SimpleNamespace(task_weight=Schedule(0.0, 0.0)))
    stats: dict[str, torch.Tensor] = {}
    assert Distillation._with_task(student, torch.tensor([torch.inf]), stats, 0.0) == 0
    assert stats["loss_task"] == torch.inf


def test_what_needs_transcripts() -> None:
    """Without them a batch has one token in their place, whose probability says nothing."""
    assert obstacle(0, {"c": {"type": "kl", "tap": "ctc.ctc_lo"}}) is None
    for criterion, reason in (
        ({"type": "kl", "tap": "decoder"}, "criterion c has the tap decoder"),
        ({"type": "transducer"}, "criterion c has no tap"),
        ({"type": "sequence", "tap": "ctc.ctc_lo"}, "criterion c compares the probabilities of transcripts"),
    ):
        assert obstacle(0, {"c": criterion}) == reason


def test_a_task_weight_beside_other_methods_than_criteria_is_explained() -> None:
    args = argparse.Namespace(task_weight=0, criteria={}, mutual={}, targets=None, teacher={})
    for name in ("nbest", "consistency"):
        with pytest.raises(UserError, match=f"{name} alone needs the task with weight 1"):
            DistillationMethod().check(argparse.Namespace(**vars(args), **{name: {"weight": 1}}), 7)


def test_validation_needs_transcripts_as_training_does() -> None:
    """It would choose epochs by the loss of tokens that nobody has said."""
    speech, text = ("dump/dev/wav.scp", "speech", "sound"), ("dump/dev/text", "text", "text")
    args = argparse.Namespace(collect_stats=False, task_weight=1.0, criteria={})
    args.train_data_path_and_name_and_type = [speech, text]
    args.valid_data_path_and_name_and_type = [speech, text]
    check_transcripts(args)
    args.valid_data_path_and_name_and_type = [speech]
    with pytest.raises(UserError, match="dev/wav.scp comes without text, but task_weight is 1.0, not 0"):
        check_transcripts(args)


@pytest.mark.parametrize(
    ("change", "refused"),
    [({}, True), ({"targets": "hard"}, False), ({"criteria": {}}, False),
     ({"teacher": {"store": "missing", "exp": "exp/t"}}, False)],
)  # fmt: skip
def test_a_store_that_nobody_makes_must_be_there(change: dict, refused: bool) -> None:
    args = {"teacher": {"store": "missing"}, "criteria": {"ctc": {}}, "targets": None} | change
    expected = pytest.raises(UserError, match="missing is no complete store") if refused else nullcontext()
    with expected:
        DistillationMethod().check_inputs(argparse.Namespace(**args))
