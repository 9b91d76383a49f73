"""Spoken digits: speech, noise, data directories."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from miniature import contents

from espnet_kd.__main__ import run
from espnet_kd.corpora import digits
from espnet_kd.corpora.digits import add_noise, coloured_noise
from espnet_kd.data.datadir import read_data_dir
from espnet_kd.errors import UserError

SMALL = ["--train", "5", "--dev", "2", "--test", "2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dst = tmp_path_factory.mktemp("digits") / "data"
    digits.main([str(dst), *SMALL, "--nj", "2"])
    return dst


def audio(dst: Path) -> dict[str, bytes]:
    return {str(p.relative_to(dst)): p.read_bytes() for p in sorted(dst.rglob("*.flac"))}


def test_data_directories_are_valid(corpus: Path) -> None:
    for part, count in (("train", 5), ("dev", 2), ("test", 2)):
        data = read_data_dir(corpus / part)
        assert len(data.text) == count
        for utterance in data:
            samples, rate = soundfile.read(utterance.audio)
            words = utterance.text.split()
            assert set(words) <= set(digits.DIGITS) and 3 <= len(words) <= 7
            assert rate == digits.SAMPLE_RATE
            assert len(samples) > 0.15 * rate * len(words)  # every digit takes longer
            assert 0.01 < np.sqrt(np.mean(samples**2)) < 0.3


def test_the_same_seed_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    digits.main([str(tmp_path / "data"), *SMALL, "--nj", "1"])
    assert len(audio(corpus)) == 9
    assert audio(tmp_path / "data") == audio(corpus)
    for part in ("train", "dev", "test"):
        for table in ("text", "utt2spk", "spk2utt"):
            assert (tmp_path / "data" / part / table).read_bytes() == (corpus / part / table).read_bytes()


def test_another_seed_gives_another_corpus(corpus: Path, tmp_path: Path) -> None:
    digits.main([str(tmp_path / "data"), *SMALL, "--seed", "2"])
    assert not audio(tmp_path / "data").keys() & audio(corpus).keys()


def test_the_test_set_does_not_depend_on_the_size_of_the_training_set() -> None:
    voices = ["adam", "f1"]
    assert digits.write_scripts("test", 3, voices, 1) == digits.write_scripts("test", 4, voices, 1)[:3]
    assert digits.write_scripts("test", 3, voices, 1) != digits.write_scripts("dev", 3, voices, 1)


def test_no_voice_is_in_two_sets(corpus: Path) -> None:
    variants = {
        part: {s.rsplit("-en")[0] for s in read_data_dir(corpus / part).speaker.values()}
        for part in digits_sets(corpus)
    }
    assert not variants["train"] & variants["dev"]
    assert not (variants["train"] | variants["dev"]) & variants["test"]


def digits_sets(corpus: Path) -> list[str]:
    return [p.name for p in corpus.iterdir() if p.name != "audio"]


@pytest.mark.parametrize("seed", range(5))
def test_similar_voices_stay_in_one_set(seed: int) -> None:
    names = [f"voice{letter}{n}" for letter in "abcdefghij" for n in ("", 2)] + ["whisper"]
    sets = digits.split_voices(names, seed)
    # 20 voices in pairs: dev takes pairs until it has 3 (15 %), test until it has 5 (25 %);
    # whispering is no voice
    assert {part: len(voices) for part, voices in sets.items()} == {"dev": 4, "test": 6, "train": 10}
    assert sorted(sum(sets.values(), [])) == sorted(names)[:-1]
    for voices in sets.values():
        assert all(v + "2" in voices for v in voices if not v.endswith("2"))


def test_audio_is_written_once_and_again_for_other_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def write(pieces: list, directory: Path, nj: int) -> list:
        assert list(directory.iterdir()) == []  # what a killed run left is gone
        written.append(sum(map(len, pieces)))
        for script in (script for piece in pieces for script in piece):
            (directory / f"{script.id}.flac").write_text("audio")
        return []

    monkeypatch.setattr(digits, "_synthesise_in_new_processes", write)
    (tmp_path / "data" / "audio" / ".train.partial").mkdir(parents=True)
    (tmp_path / "data" / "audio" / ".train.partial" / "half.flac").write_text("")
    for count in (5, 5, 6):
        digits.prepare(tmp_path / "data", {"train": count}, seed=1, nj=1)
    assert written == [5, 6]
    audio = tmp_path / "data" / "audio"
    assert len(contents(audio)) == 7 and (audio / "train/made").exists()
    next(audio.glob("train/*.flac")).unlink()  # the marker alone is no proof
    digits.prepare(tmp_path / "data", {"train": 6}, seed=1, nj=1)
    next(audio.glob("train/*.flac")).write_bytes(b"")
    digits.prepare(tmp_path / "data", {"train": 6}, seed=1, nj=1)
    assert written == [5, 6, 6, 6] and len(contents(audio)) == 7


def test_two_runs_at_once_are_kept_apart(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "espnet_kd", "prepare", "digits", str(tmp_path / "data"), *SMALL]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = sorted((p.communicate()[1], p.returncode) for p in both)
    busy = f"espnet-kd: error: another run prepares data in {tmp_path}/data: wait for it, or stop it\n"
    assert results in ([("", 0), (busy, 1)], [("", 0), ("", 0)])
    for part in ("train", "dev", "test"):
        table = (tmp_path / "data" / part / "wav.scp").read_text().split()[1::2]
        assert table and all(Path(file).stat().st_size for file in table)


def test_into_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    digits.prepare(Path("."), {"dev": 1}, seed=1, nj=1)
    assert len(read_data_dir("dev").speaker) == 1


def test_the_error_without_espeakng_loader_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(SystemExit) as stop:
        run("prepare", ["digits", str(tmp_path / "data")])
    assert str(stop.value).startswith("espnet-kd: error: ") and "\n" not in str(stop.value)
    assert "pip install 'espnet_kd[demo]'" in str(stop.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("option", ["--train", "--test", "--nj"])
def test_counts_are_positive(tmp_path: Path, option: str) -> None:
    with pytest.raises(UserError, match=f"{option} 0: must be at least 1"):
        digits.main([str(tmp_path / "data"), option, "0"])


def test_a_destination_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/data/audio/train"):
        digits.main([str(tmp_path / "data"), *SMALL])


@pytest.fixture(scope="module")
def synthesiser() -> digits.Synthesiser:
    return digits.Synthesiser()


def seconds(samples: np.ndarray) -> float:
    return len(samples) / 22050


def test_speech(synthesiser: digits.Synthesiser) -> None:
    assert synthesiser.sample_rate == 22050
    speech = synthesiser.synthesise("one two three", "en-us+f2")
    assert speech.dtype == np.int16 and 0.5 < seconds(speech) < 2 and np.abs(speech).max() > 1000


def test_a_higher_rate_is_shorter_and_a_gap_longer(synthesiser: digits.Synthesiser) -> None:
    slow, fast = (synthesiser.synthesise("one two three", "en", rate=rate) for rate in (120, 240))
    assert seconds(fast) < 0.75 * seconds(slow)
    assert seconds(synthesiser.synthesise("one two three", "en", rate=120, word_gap=20)) > seconds(slow) + 0.3


@pytest.mark.parametrize("accent", digits.ACCENTS)
def test_every_accent_speaks(synthesiser: digits.Synthesiser, accent: str) -> None:
    assert seconds(synthesiser.synthesise("nine", f"{accent}+{digits.variants()[0]}")) > 0.1


def test_an_unknown_voice(synthesiser: digits.Synthesiser) -> None:
    with pytest.raises(ValueError, match="no voice 'martian'"):
        synthesiser.synthesise("one", "martian")


def test_about_a_hundred_variants() -> None:
    assert len(digits.variants()) > 80 and {"f1", "m1"} <= set(digits.variants())


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_level_without_noise() -> None:
    speech = np.full(4, 8192, np.int16)
    # a level of -20 dB is a root mean square of 1/10 of full scale: 32767 / 10 = 3276.7
    mixture = add_noise(speech, level=-20, snr=200, slope=0, padding=(2, 3), rng=rng())
    assert mixture.tolist() == [0, 0, 3277, 3277, 3277, 3277, 0, 0, 0]
    assert mixture.dtype == np.int16


@pytest.mark.parametrize("snr, ratio", [(0, 1.0), (20, 0.1)])
def test_signal_to_noise_ratio(snr: float, ratio: float) -> None:
    speech = np.tile(np.array([5000, -5000], np.int16), 5000)
    noisy, clean = (add_noise(speech, -20, r, 0.5, (0, 0), rng()).astype(float) for r in (snr, 200))
    assert np.sqrt(np.mean((noisy - clean) ** 2) / np.mean(clean**2)) == pytest.approx(ratio, rel=0.01)


def test_power_falls_with_the_slope() -> None:
    power = np.abs(np.fft.rfft(coloured_noise(1 << 16, 1.0, rng()))) ** 2
    # pink: each octave has the same power
    octaves = [power[low : 2 * low].sum() for low in (512, 1024, 2048, 4096, 8192)]
    assert max(octaves) / min(octaves) < 1.2
    assert np.mean(coloured_noise(1000, 1.0, rng()) ** 2) == pytest.approx(1)


def test_peaks_are_cut() -> None:
    assert add_noise(np.array([0, 0, 0, 9000], np.int16), 0, 200, 0, (0, 0), rng()).tolist() == [
        0,
        0,
        0,
        32767,
    ]


@pytest.mark.parametrize("speech", [np.zeros(0, np.int16), np.zeros(5, np.int16)])
def test_silence_is_refused(speech: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the speech is silent"):
        add_noise(speech, -20, 10, 0, (1, 1), rng())
