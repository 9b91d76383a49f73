from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_kd.data.audio import read_waveform
from espnet_kd.errors import UserError
from espnet_kd.report import posteriors
from espnet_kd.report.groups import make_groups
from espnet_kd.report.posteriors import Panel, peaks
from espnet_kd.report.run import find_runs


def test_a_peak_is_the_top_of_a_stretch() -> None:
    assert peaks(np.array([0, 0.5, 0.9, 0.6, 0, 0.2, 0, 0.4])) == [2, 7]
    assert peaks(np.array([0.9, 0.9, 0.1])) == [0]
    assert peaks(np.zeros(3)) == []


def test_panels_are_drawn_in_colour(tmp_path: Path) -> None:
    tokens = ["<blank>", "<space>", "a", "b", "<sos/eos>"]
    frames = np.full((20, 5), 0.001, dtype=np.float32)
    frames[np.arange(20), [0, 0, 2, 2, 0, 1, 0, 3, 0, 0] * 2] = 0.99
    panels = [Panel("teacher", frames, tokens), Panel("student", frames[::2], tokens)]
    posteriors.plot_panels(panels, 1.5, "u1: a b", tmp_path / "p.png")
    posteriors.plot_panels(panels[:1], 1.5, "u1: a b", tmp_path / "one.png")
    odd = Panel("$x$", frames, ["<blank>", "$", r"\frac$", "$a^$", "<sos/eos>"])  # no formulae
    posteriors.plot_panels([odd], 1.5, "$HOME-x$: a \x1b[2J ^ $", tmp_path / "odd.png")
    from matplotlib.image import imread

    two, one = imread(tmp_path / "p.png")[..., :3], imread(tmp_path / "one.png")[..., :3]
    assert two.shape[0] > 1.4 * one.shape[0]
    coloured = two.max(axis=-1) - two.min(axis=-1) > 0.5
    assert coloured.mean() > 0.002


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Utterances of 0.5, 2 and 3 seconds."""
    directory = tmp_path / "dump/raw/dev"
    directory.mkdir(parents=True)
    scp = []
    for utt, seconds in (("a", 0.5), ("b", 2), ("c", 3)):
        noise = np.random.default_rng(0).normal(0, 0.1, int(16000 * seconds))
        soundfile.write(tmp_path / f"{utt}.wav", noise, 16000)
        scp.append(f"{utt} {tmp_path / utt}.wav\n")
    (directory / "wav.scp").write_text("".join(scp))
    (directory / "text").write_text("a X\nb Y\nc Z\n")
    return directory


def test_the_utterance_is_long_enough_to_show_something(data: Path, tmp_path: Path) -> None:
    seen = []

    def compute(label: str, run: object, speech: np.ndarray, rate: int) -> Panel:
        seen.append(len(speech))
        return Panel(label, np.full((10, 2), 0.5, dtype=np.float32), ["<blank>", "x"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posteriors, "compute_posteriors", compute)
        assert posteriors.draw_posteriors([("m", None)], data, tmp_path / "p.png") == "b"
        assert posteriors.draw_posteriors([("m", None)], data, tmp_path / "p.png", "c") == "c"
    assert seen == [32000, 48000]
    with pytest.raises(UserError, match="has no utterance z"):
        posteriors.draw_posteriors([], data, tmp_path / "p.png", "z")


def test_audio_that_cannot_be_read_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_bytes(b"not audio")
    with pytest.raises(UserError, match="b.wav of b"):
        posteriors.draw_posteriors([], data, tmp_path / "p.png", "b")
    soundfile.write(tmp_path / "b.wav", np.zeros(16000), 16000)
    assert read_waveform(str(tmp_path / "b.wav"), "b")[0].shape == (16000,)
    (tmp_path / "b.wav").write_bytes((tmp_path / "b.wav").read_bytes()[:16000])
    with pytest.raises(UserError, match="b.wav: was cut off, it has 16000 of 32044 bytes"):
        read_waveform(str(tmp_path / "b.wav"), "b")
    soundfile.write(tmp_path / "b.wav", np.zeros(0), 16000)
    assert read_waveform(str(tmp_path / "b.wav"), "b")[0].shape == (0,)
    with pytest.raises(UserError, match="a.wav of b does not exist; where wav.scp has relative paths"):
        read_waveform("dump/a.wav", "b")


def test_one_teacher_one_student_and_the_best_distilled_one_on_the_validation_set(tmp_path: Path) -> None:
    from fabricated import distilled, write_checkpoint, write_experiment, write_recipe, write_score

    write_recipe(tmp_path)
    worse = write_experiment(tmp_path / "worse", distilled(weight_decay=1))
    write_checkpoint(worse, 50)
    write_score(worse, "dev", wrong=11)  # the other: 10 and 12 with two seeds, the mean is 11
    write_score(worse, "test", wrong=0)
    better = write_experiment(tmp_path / "zbetter", distilled(weight_decay=2))
    write_checkpoint(better, 50)
    write_score(better, "dev", wrong=10)
    groups = make_groups(find_runs(list(tmp_path.iterdir()), ["test", "dev"], []))
    chosen = posteriors.choose_models(groups, "dev")
    assert [run.name for _, run in chosen] == ["teacher", "student", "zbetter"]
    assert chosen[0][0] == "teacher (seed 1)"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A stock ESPnet experiment of a few thousand random parameters."""
    import argparse

    import torch
    import yaml
    from espnet2.tasks.asr import ASRTask

    directory = tmp_path / "exp/tiny"
    directory.mkdir(parents=True)
    config = ASRTask.get_default_config() | {
        "token_list": ["<blank>", "<unk>", "<space>", "a", "b", "<sos/eos>"],
        "token_type": "char",
        "normalize": None,
        "frontend_conf": {"n_fft": 256, "hop_length": 160, "n_mels": 16},
        "encoder": "transformer",
        "encoder_conf": {"output_size": 8, "attention_heads": 2, "linear_units": 8, "num_blocks": 1},
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "linear_units": 8, "num_blocks": 1},
        "teacher": {"exp": "gone"},  # a student's own options do not disturb
        "criteria": {"ctc": {"type": "kl", "tap": "ctc.ctc_lo"}},
    }
    model = ASRTask.build_model(argparse.Namespace(**config))
    torch.save({**model.state_dict(), "kd_ctc.weight": torch.zeros(1)}, directory / "valid.acc.ave.pth")
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory


def test_a_stock_experiment_is_run(experiment: Path) -> None:
    (run,) = find_runs([experiment], ["dev"], [])
    speech = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    panel = posteriors.compute_posteriors("tiny", run, speech, 16000)
    # one second has 101 spectra; two convolutions of stride 2 leave (101 - 1) / 2 = 50, (50 - 1) / 2 = 24
    assert panel.posteriors.shape == (24, 6)
    assert panel.posteriors.sum(axis=1) == pytest.approx(np.ones(24), abs=1e-5)
    assert panel.tokens[3] == "a"
    again = posteriors.compute_posteriors("tiny", run, speech, 16000)  # no dropout, no SpecAugment
    assert (again.posteriors == panel.posteriors).all()


def test_speech_is_prepared_as_in_the_training_of_a_model(experiment: Path, tmp_path: Path) -> None:
    import yaml

    speech = np.sin(np.arange(8000) / 5).astype(np.float32)
    (run,) = find_runs([experiment], ["dev"], [])
    loud, quiet = (posteriors.load_ctc(run).posteriors(scale * speech, 16000) for scale in (0.5, 0.01))
    difference = abs(loud - quiet).max()
    config = yaml.safe_load((experiment / "config.yaml").read_text())
    config["speech_volume_normalize"] = 0.5
    (experiment / "config.yaml").write_text(yaml.safe_dump(config))
    (run,) = find_runs([experiment], ["dev"], [])
    model = posteriors.load_ctc(run)
    loud, quiet = (model.posteriors(scale * speech, 16000) for scale in (0.5, 0.01))
    assert abs(loud - quiet).max() < min(1e-3, difference / 10)
    # half a second has 51 spectra; two convolutions leave (51 - 1) / 2 = 25 and (25 - 1) / 2 = 12 frames
    assert model.posteriors(speech[:4000], 8000).shape == loud.shape == (12, 6)


def test_speech_in_an_ark_is_drawn(tmp_path: Path) -> None:
    import kaldiio

    speech = {utt: (16000, np.zeros(int(16000 * length), np.int16)) for utt, length in (("a", 0.5), ("b", 2))}
    kaldiio.save_ark(str(tmp_path / "speech.ark"), speech, scp=str(tmp_path / "wav.scp"))
    wavs = dict(line.split() for line in (tmp_path / "wav.scp").read_text().splitlines())
    assert posteriors.choose_utterance(tmp_path, wavs) == "b"
    with pytest.raises(UserError, match="speech.ark:9 of z cannot be read"):
        posteriors.choose_utterance(tmp_path, {"z": f"{tmp_path}/no/speech.ark:9"})


def test_parameters_are_those_that_espnet_trains(experiment: Path) -> None:
    from espnet_kd.teachers.experiment import load_experiment

    (run,) = find_runs([experiment], ["dev"], [])
    model = load_experiment(experiment).model
    assert run.parameters == sum(p.numel() for p in model.parameters())
