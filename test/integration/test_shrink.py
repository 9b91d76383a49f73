"""``espnet-kd shrink`` and ``init_from_teacher`` make the same smaller model, which stock ESPnet decodes."""

import contextlib
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from recipe import MODELS, Recipe

from espnet_kd.commands.shrink import main
from espnet_kd.errors import UserError
from espnet_kd.teachers.experiment import load_experiment

pytestmark = pytest.mark.slow(seconds=15)

SELECTED = {part: {"layers": "last", "select": "norm"} for part in ("encoder", "decoder", "ctc")}


def shrunk(recipe: Recipe, config: Path, out: str, **sizes: object) -> Path:
    config.write_text(yaml.safe_dump({**MODELS["student"], "criteria": {"ctc": {"type": "kl"}}, **sizes}))
    with contextlib.chdir(recipe.root):
        main(["exp/teacher", "--config", str(config), "--layers", "last", "--out", out])
    return recipe.root / out


def test_a_training_begins_with_what_shrink_writes(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exp = shrunk(recipe, tmp_path / "smaller.yaml", "exp/smaller")
    printed = capsys.readouterr().out
    assert printed.startswith("exp/smaller/valid.acc.ave.pth: 0.0") and "--init_param" in printed
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert "criteria" not in config and config["encoder_conf"]["num_blocks"] == 1
    assert config["normalize_conf"] == {
        "stats_file": "stats/train/feats_stats.npz"
    }  # the recipe's, as before
    trained = recipe.train("exp/selected", "student", teacher={"exp": "exp/teacher"},
                           init_from_teacher=SELECTED, optim_conf={"lr": 0.0}, scheduler=None)  # fmt: skip
    ours, theirs = (
        torch.load(e / f, weights_only=True) for e, f in ((exp, "valid.acc.ave.pth"), (trained, "1epoch.pth"))
    )
    counted = {name for name in theirs if "conv_module.norm" in name}  # batch norms follow the data
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - counted:
        torch.testing.assert_close(ours[name], theirs[name], msg=lambda m, name=name: f'{name}: {m}')
    before = load_experiment(recipe.root / "exp/teacher").model.state_dict()
    for name in ("embed.out.weight", "encoders.0.feed_forward.w_1.weight"):
        assert set(ours[f"encoder.{name}"].flatten().tolist()) & set(
            before[f"encoder.{name.replace('0', '1')}"].flatten().tolist()
        )


def test_stock_espnet_decodes_it(recipe: Recipe, tmp_path: Path) -> None:
    from espnet2.bin.asr_inference import Speech2Text

    exp = shrunk(recipe, tmp_path / "smaller.yaml", "exp/decoded")
    with contextlib.chdir(recipe.root):
        search = Speech2Text(str(exp / "config.yaml"), str(exp / "valid.acc.ave.pth"), beam_size=2)
        speech, _ = soundfile.read(next(Path("dump/raw/dev").glob("*.wav")))
        assert isinstance(search(speech)[0][0], str)
    saved = torch.load(exp / "valid.acc.ave.pth", weights_only=True)
    loaded = search.asr_model.state_dict()
    assert saved.keys() == loaded.keys()
    for name, value in saved.items():
        assert torch.equal(loaded[name], value), name


def test_files_are_found_from_another_recipe(recipe: Recipe, tmp_path: Path) -> None:
    exp = shrunk(recipe, tmp_path / "smaller.yaml", str(tmp_path / "elsewhere"))
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert Path(config["normalize_conf"]["stats_file"]).is_absolute()
    assert load_experiment(exp).model is not None


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"encoder_conf": {"output_size": 48}}, "makes no smaller model of exp/teacher: encoder vectors: 48"),
        ({"encoder": "transformer"}, "norm1.bias of the student is absent in the teacher: choose another"),
        ({"encoder_conf": {"input_layer": "conv9"}}, "ESPnet builds no model of it: "),
        ({"encoder_conf": {"output_size": 15}}, "heads is 2, which does not divide the output_size of the"),
        ({"encoder_conf": {"num_blocks": 0}}, "smaller.yaml: encoder_conf: num_blocks is 0: give 1 or more"),
    ],
)
def test_refused(recipe: Recipe, tmp_path: Path, sizes: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        shrunk(recipe, tmp_path / "smaller.yaml", "exp/not_shrunk", **sizes)
    assert message in str(error.value)
    assert not (recipe.root / "exp/not_shrunk").exists()


def test_what_was_pruned_is_left_out(recipe: Recipe, tmp_path: Path) -> None:
    """A pruned training is continued as uninterrupted; shrunk, stock ESPnet decodes the same with it."""
    from espnet2.bin.asr_inference import Speech2Text

    int8 = {"begin": 2, "keep_float": ["ctc.ctc_lo"]}
    options = {"prune": {"target": 0.25, "end": 3}, "quantise": int8, "resume": True,
               "teacher": {"exp": "exp/teacher"},
               "criteria": {"ctc": {"type": "kl", "tap": "ctc.ctc_lo"}}}  # fmt: skip
    exp = recipe.train("exp/pruned", "student", max_epoch=3, **options)
    recipe.train("exp/again", "student", max_epoch=1, **options)
    again = recipe.train("exp/again", "student", max_epoch=3, **options)
    states = [torch.load(e / "3epoch.pth", weights_only=True) for e in (exp, again)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    units = states[0]["encoder.encoders.0.feed_forward.w_1.weight"]
    assert units.shape[0] == 32 and (units == 0).all(1).sum() == 8
    with contextlib.chdir(recipe.root):
        with pytest.raises(UserError, match=r"1epoch.pth has .* more than `prune: \{target: 0.25\}` leaves"):
            main(["exp/pruned", "--checkpoint", "1epoch.pth", "--out", "exp/none"])
        with pytest.raises(UserError, match=r"has no channels of feed-forward layers that are zero: give --"):
            main(["exp/teacher", "--out", "exp/none"])
        main(["exp/pruned", "--checkpoint", "3epoch.pth", "--out", "exp/left"])
        config = yaml.safe_load(Path("exp/left/config.yaml").read_text())
        assert config["encoder_conf"]["linear_units"] == config["decoder_conf"]["linear_units"] == 24
        assert "prune" not in config and "criteria" not in config and config["quantise"] == int8
        found = []
        for e in ("exp/pruned", "exp/left"):
            search = Speech2Text(f"{e}/config.yaml", f"{e}/3epoch.pth", beam_size=2)
            wavs = sorted(Path("dump/raw/dev").glob("*.wav"))
            results = [search(soundfile.read(wav)[0])[0] for wav in wavs]
            found.append([(text, float(hypothesis.score)) for text, _, _, hypothesis in results])
    for (text, score), (same, nearly) in zip(*found, strict=True):
        assert text == same and score == pytest.approx(nearly, abs=1e-4)


def test_a_trained_experiment_is_not_overwritten(recipe: Recipe, tmp_path: Path) -> None:
    (recipe.root / "exp/trained_here").mkdir()
    (recipe.root / "exp/trained_here/1epoch.pth").touch()
    with pytest.raises(UserError, match="exp/trained_here has other files and is not overwritten"):
        shrunk(recipe, tmp_path / "smaller.yaml", "exp/trained_here")
    with pytest.raises(UserError, match="exp/teacher is the experiment itself"):
        shrunk(recipe, tmp_path / "smaller.yaml", "exp/teacher")
