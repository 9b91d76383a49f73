"""Which statistics directory a configuration uses."""

from pathlib import Path

import pytest
import yaml

from espnet_kd.data.statistics import STATS_CONFIG, front_end, main
from espnet_kd.errors import UserError


def directory(capsys: pytest.CaptureFixture[str], base: Path, config: dict, *more: str) -> str:
    """What the command prints for a configuration."""
    path = base.parent / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    main([str(base), str(path), *more])
    return capsys.readouterr().out.strip()


@pytest.fixture()
def base(tmp_path: Path) -> Path:
    """Statistics made with 40 filters at 16 kHz."""
    record = tmp_path / "stats" / STATS_CONFIG
    record.parent.mkdir(parents=True)
    record.write_text(
        yaml.safe_dump({"frontend": "default", "frontend_conf": {"n_mels": 40, "fs": "16k"}, "max_epoch": 9})
    )
    return tmp_path / "stats"


def test_the_first_configuration_takes_the_plain_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert directory(capsys, tmp_path / "stats", {"frontend_conf": {"n_mels": 40}}) == str(tmp_path / "stats")


def test_an_equal_front_end_shares_it(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"encoder": "rnn", "frontend_conf": {"n_mels": 40, "fs": 16000}}
    assert directory(capsys, base, config) == str(base)
    assert directory(capsys, base, {}, "--args=--max_epoch 3 --frontend_conf n_mels=40") == str(base)


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ({"frontend_conf": {"n_mels": 80}}, ()),
        ({"frontend": "s3prl", "frontend_conf": {"n_mels": 40}}, ()),
        ({"frontend_conf": {"n_mels": 40}}, ("--args=--frontend_conf n_mels=20",)),
        ({"frontend_conf": {"n_mels": 40}}, ("--fs", "8k")),
        ({"frontend_conf": {"n_mels": 40}, "speech_volume_normalize": 0.5}, ()),
        ({"frontend_conf": {"n_mels": 40}}, ("--args=--speech_volume_normalize 0.5",)),
    ],
)
def test_another_front_end_gets_a_separate_directory(
    base: Path, capsys: pytest.CaptureFixture[str], config: dict, more: tuple[str, ...]
) -> None:
    other = directory(capsys, base, config, *more)
    assert other.startswith(f"{base}_") and len(other) == len(str(base)) + 9
    assert directory(capsys, base, config, *more) == other


def test_statistics_without_a_record_of_their_front_end_are_not_used(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With as many filters, but another hop, nothing else would tell them apart."""
    (base / "train").mkdir()
    (base / "train/feats_stats.npz").touch()
    (base / STATS_CONFIG).rename(base / "config.yaml")
    assert directory(capsys, base, {"frontend_conf": {"n_mels": 40}}) == str(base)
    asr_sh = {"frontend_conf": {"n_mels": 20, "fs": 16000}}  # it writes into this directory, too
    (base / STATS_CONFIG).write_text(yaml.safe_dump(asr_sh))
    assert directory(capsys, base, {"frontend_conf": {"n_mels": 20}}) == str(base)
    (base / STATS_CONFIG).unlink()
    (base / "config.yaml").unlink()
    other = directory(capsys, base, {"frontend_conf": {"n_mels": 40}})
    assert other.startswith(f"{base}_") and directory(capsys, base, {}) not in (other, str(base))


def test_options_override_the_volume() -> None:
    key = "speech_volume_normalize"
    assert front_end({key: 0.5}, f"--{key} 1")[key] == 1.0
    assert key not in front_end({key: 0.5}, f"--{key} none") and key not in front_end({key: None})
    with pytest.raises(UserError, match=f"{key} is 'loud': give a number"):
        front_end({}, f"--{key} loud")


def test_options_override_the_front_end() -> None:
    config = {"frontend_conf": {"n_fft": 400, "fs": "8k"}}
    expected = {"frontend": "default", "frontend_conf": {"n_fft": 512, "fs": 16000}}
    assert front_end(config, "--lr 1 --frontend_conf n_fft=512", "16k") == expected
    assert config == {"frontend_conf": {"n_fft": 400, "fs": "8k"}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--x 'a", "no closing quotation"),
        ("--frontend_conf {a", "is not YAML"),
        ("--frontend_conf a=" + "9" * 5000, "is not YAML"),
    ],
)
def test_options_that_cannot_be_read_are_named(options: str, message: str) -> None:
    with pytest.raises(UserError, match=f"--args .*: .*{message}"):
        front_end({}, options)
