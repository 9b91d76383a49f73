"""A teacher from another recipe gets a directory here for its results."""

import json
from pathlib import Path

import pytest
import yaml
from miniature import contents

from espnet_kd.commands.adopt import adopt, main
from espnet_kd.errors import UserError

MODEL = "valid.acc.ave.pth"


@pytest.fixture()
def theirs(tmp_path: Path) -> Path:
    """A trained experiment of another recipe."""
    root = tmp_path / "their recipe"
    exp = root / "exp" / "asr_big"
    (root / "data").mkdir(parents=True)
    exp.mkdir(parents=True)
    (root / "data" / "bpe.model").touch()
    (root / "exp" / "feats_stats.npz").touch()
    config = {
        "bpemodel": "data/bpe.model",
        "normalize_conf": {"stats_file": "exp/feats_stats.npz"},
        "token_list": ["a"],
    }
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    (exp / "2epoch.pth").write_text("weights")
    (exp / MODEL).symlink_to("2epoch.pth")
    return exp


def test_an_experiment_in_expdir_is_used_directly(tmp_path: Path) -> None:
    (tmp_path / "exp" / "t").mkdir(parents=True)
    assert adopt(tmp_path / "exp" / "t", tmp_path / "exp", MODEL) == tmp_path / "exp" / "t"
    assert not contents(tmp_path)


def test_paths_become_absolute_and_the_original_is_unchanged(tmp_path: Path, theirs: Path) -> None:
    before = contents(theirs)
    here = adopt(theirs, tmp_path / "exp", MODEL)
    assert here == tmp_path / "exp" / "asr_big"
    config = yaml.safe_load((here / "config.yaml").read_text())
    assert config["bpemodel"] == str(theirs.parents[1] / "data/bpe.model")
    assert config["normalize_conf"] == {"stats_file": str(theirs.parent / "feats_stats.npz")}
    assert (here / MODEL).read_text() == "weights"
    assert json.loads((here / "run.json").read_text()) == {"role": "teacher", "source": str(theirs)}
    assert contents(theirs) == before


def test_a_teacher_for_another_rate_is_not_decoded_here(
    tmp_path: Path, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ESPnet would decode 16 kHz with a model for 8 kHz, and the table would have that as its error rate."""
    config = yaml.safe_load((theirs / "config.yaml").read_text())
    (theirs / "config.yaml").write_text(yaml.safe_dump(config | {"frontend_conf": {"fs": "8k"}}))
    words = [str(theirs), "--expdir", str(tmp_path / "exp"), "--fs"]
    main([*words, "8000"])
    assert capsys.readouterr().out == f"{tmp_path / 'exp' / 'asr_big'}\n"
    main([*words, "16k"])
    printed = capsys.readouterr()
    assert printed.out == "" and "asr_big is for speech of 8000 Hz, not 16k: it can teach" in printed.err


def test_characters_and_no_normalisation(tmp_path: Path, theirs: Path) -> None:
    config = {"bpemodel": None, "normalize_conf": {}, "token_list": ["a"]}
    (theirs / "config.yaml").write_text(yaml.safe_dump(config))
    assert yaml.safe_load((adopt(theirs, tmp_path / "exp", MODEL) / "config.yaml").read_text()) == config


def test_a_second_time_changes_nothing_and_a_moved_model_is_linked_anew(tmp_path: Path, theirs: Path) -> None:
    here = adopt(theirs, tmp_path / "exp", MODEL)
    at = (here / "config.yaml").stat().st_mtime_ns
    (theirs / "2epoch.pth").rename(theirs / "3epoch.pth")
    (theirs / MODEL).unlink()
    (theirs / MODEL).symlink_to("3epoch.pth")
    assert adopt(theirs, tmp_path / "exp", MODEL) == here
    assert (here / "config.yaml").stat().st_mtime_ns == at
    assert (here / MODEL).read_text() == "weights"


@pytest.mark.parametrize(
    ("missing", "message"), [("config.yaml", "asr_big/config.yaml does not exist"), ("*.pth", "it has no")]
)
def test_an_incomplete_teacher_is_refused(tmp_path: Path, theirs: Path, missing: str, message: str) -> None:
    for path in theirs.glob(missing):
        path.unlink()
    with pytest.raises(UserError, match=message):
        adopt(theirs, tmp_path / "exp", MODEL)


def test_a_checkpoint_of_another_name(
    tmp_path: Path, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Published models often have valid.acc.ave_10best.pth alone, which no student need have."""
    (theirs / MODEL).unlink()
    (theirs / "2epoch.pth").rename(theirs / "valid.acc.ave_10best.pth")
    here = adopt(theirs, tmp_path / "exp", MODEL)
    assert (here / MODEL).read_text() == "weights"
    assert f"asr_big has no {MODEL}: it is decoded with valid.acc.ave_10best.pth" in capsys.readouterr().err
    (theirs / MODEL).write_text("average")
    assert (adopt(theirs, tmp_path / "exp", MODEL) / MODEL).read_text() == "average", "it is there now"


def test_two_teachers_of_one_name_are_refused(tmp_path: Path, theirs: Path) -> None:
    (tmp_path / "exp" / "asr_big").mkdir(parents=True)
    with pytest.raises(UserError, match="is another experiment than .*symbolic link of another name"):
        adopt(theirs, tmp_path / "exp", MODEL)


def test_a_missing_file_is_named(tmp_path: Path, theirs: Path) -> None:
    (theirs.parents[1] / "data" / "bpe.model").unlink()
    with pytest.raises(UserError, match=r"config.yaml names data/bpe.model, which is in none"):
        adopt(theirs, tmp_path / "exp", MODEL)


def test_a_file_of_symbols_is_found_as_the_others_are(tmp_path: Path, theirs: Path) -> None:
    (theirs.parents[1] / "data" / "nlsyms.txt").touch()
    config = {"token_type": "char", "non_linguistic_symbols": "data/nlsyms.txt", "token_list": ["a"]}
    (theirs / "config.yaml").write_text(yaml.safe_dump(config))
    adopted = yaml.safe_load((adopt(theirs, tmp_path / "exp", MODEL) / "config.yaml").read_text())
    assert adopted["non_linguistic_symbols"] == str(theirs.parents[1] / "data/nlsyms.txt")
