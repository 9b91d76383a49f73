"""build_criterion: names, options, plug-ins."""

import pytest
from torch import nn, tensor

from espnet_kd.criteria import CRITERIA, build_criterion
from espnet_kd.teachers.options import term_options, token_users

KNOWN = ", ".join(sorted(CRITERIA))
PLUGIN = '''
from espnet_kd.criteria import Criterion


class LogitL2(Criterion):
    """Squared distance of the logits, averaged over the V classes."""

    def per_position(self, student, target):
        return (student - target).square().mean(-1)


class Weighted(LogitL2):
    def __init__(self, weight, reduction="mean"):
        super().__init__(reduction)


class Vectors(LogitL2):
    needs = "hidden"


def function(student, target, mask):
    return student.mean()
'''


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """Install a package as pip does: a module, and entry points in its dist-info."""
    (tmp_path / "kd_plugin.py").write_text(PLUGIN)
    info = tmp_path / "kd_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kd-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[espnet_kd.criteria]\nlogit_l2 = kd_plugin:LogitL2\nweighted = kd_plugin:Weighted\n"
        "vectors = kd_plugin:Vectors\n"
        "function = kd_plugin:function\nabsent = kd_plugin:Absent\nno_module = kd_no_such_module:X\n"
        "kl = kd_plugin:LogitL2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", CRITERIA)
def test_builds_every_criterion(name):
    criterion = build_criterion(name, reduction="sum")
    assert isinstance(criterion, nn.Module) and type(criterion) is CRITERIA[name]
    needs = {"hidden": "hidden", "mvq": "codes", "transducer": "lattice", "sequence": "sequence"}
    assert criterion.reduction == "sum" and criterion.needs == needs.get(name, "logits")
    assert build_criterion(name).reduction == "utterance"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("k1", {}, f"unknown criterion 'k1'; did you mean kl.* known: {KNOWN}"),
        ("KL", {}, "did you mean kl"),
        ("zzz", {}, "unknown criterion 'zzz'; known: "),
        (["kl"], {}, rf"the type of a criterion is a name, not \['kl'\]; known: {KNOWN}"),
        ("kl", {"temprature": 2}, "^criterion kl has no option temprature; did you mean temperature"),
        ("kl", {"direction": "backward"}, "^criterion kl: direction is 'backward'; .*known: forward, rev"),
        ("kl", {"reduction": "max"}, "^criterion kl: reduction is 'max'; .*known: mean, sum, utterance"),
        ("kl", {"reduction": ["mean"]}, r"reduction is \['mean'\]"),
        # Options that would change nothing:
        ("kl", {"frames": "nonblank", "neighbours": 2}, "neighbours is 2, but frames is 'nonblank': write"),
        ("hidden", {"weight_power": 2.0}, "weight_power is 2.0, but frame_weights is 'none': write"),
        ("transducer", {"kind": "full", "distance": "mse"}, "distance is 'mse', but kind: full compares no"),
    ],
)
def test_mistakes_name_what_is_known(name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_criterion(name, **options)
    assert "\n" not in str(caught.value)


def test_a_plugin_is_built_like_our_own(plugins):
    criterion = build_criterion("logit_l2", reduction="sum")
    # ((1 - 3)^2 + (2 - 2)^2) / 2 = 2
    assert criterion(tensor([[[1.0, 2.0]]]), tensor([[[3.0, 2.0]]]), tensor([[True]])).item() == 2.0


def test_common_tokens_are_asked_for_where_a_plugin_compares_logits(plugins):
    types = {"a": "logit_l2", "b": "vectors", "c": "hidden", "d": "kl", "e": "mvq", "f": "transducer"}
    taps = dict.fromkeys(types, "encoder") | {"f": "joint_network"}
    entries = {name: {"type": kind, "tap": taps[name]} for name, kind in types.items()}
    assert token_users(term_options(entries)) == ["criterion a", "criterion d", "criterion f"]


def test_a_plugin_does_not_replace_our_own(plugins):
    assert type(build_criterion("kl")) is CRITERIA["kl"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("logit_l1", {}, "unknown criterion 'logit_l1'; did you mean logit_l2"),
        ("logit_l2", {"weight": 1}, "logit_l2 has no option weight; known: reduction"),
        ("weighted", {}, "criterion weighted needs the option weight"),
        ("function", {}, "criterion function, plug-in kd_plugin:function, is no criterion"),
        ("absent", {}, "criterion absent, plug-in kd_plugin:Absent, does not load: .*Absent"),
        ("no_module", {}, "does not load: No module named 'kd_no_such_module'"),
    ],
)
def test_mistakes_with_plugins(plugins, name, options, message):
    with pytest.raises(ValueError, match=message):
        build_criterion(name, **options)
