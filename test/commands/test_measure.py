"""Models side by side in processes of their own, without ESPnet."""

import json
import os
import signal
import time
from pathlib import Path

import fake_recogniser
import pytest
from miniature import write_speech

from espnet_kd.commands import measure
from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint, write_table
from espnet_kd.measure import process
from espnet_kd.measure.measurement import read_measurement
from espnet_kd.measure.process import Measured
from espnet_kd.measure.recogniser import KINDS, DecodingOptions

UTTERANCES = {f"u{i}": 800 * (i + 1) for i in range(6)}


@pytest.fixture(autouse=True)
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six utterances of noise, and processes that load directories with fake.json."""
    monkeypatch.chdir(tmp_path)
    tests = Path(fake_recogniser.__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tests), os.environ["PYTHONPATH"]]))
    monkeypatch.setattr(process, "WORKER", fake_recogniser.COMMAND)
    monkeypatch.setitem(KINDS, *fake_recogniser.KIND)
    write_speech(tmp_path / "test", UTTERANCES)
    write_table(tmp_path / "test/text", dict.fromkeys(UTTERANCES, "one two"))
    return tmp_path


def test_models_are_measured_side_by_side(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = fake_recogniser.write(recipe / "slow", seconds=0.02, parameters=2_000_000, words="one two")
    fast = fake_recogniser.write(recipe / "fast", seconds=0.005, words="one")
    measure.main([str(slow), str(fast), "--data", "test", "--rounds", "2", "--utterances", "4"])
    first, second = (read_measurement(path / "inference/test") for path in (slow, fast))
    assert first is not None and second is not None
    assert (first.utterances, first.rounds, first.relative, second.relative_to) == (4, 2, None, str(slow))
    assert second.relative is not None and 0.2 < second.relative.median < 0.4  # 0.005 / 0.02 s
    assert first.rtf.median > 0.02 / 0.3  # no utterance is longer
    assert (first.parameters, second.parameters, second.multiply_adds_per_s) == (2_000_000, None, None)
    assert (first.multiply_adds_per_s, first.encoder_multiply_adds_per_s) == (48_000, 16_000)  # 3 a sample
    assert (first.errors, first.words, second.errors) == (0, 8, 4)
    assert first.end_s.median > 0.02 and first.memory_mb > 5 and first.startup_s > 0
    assert first.disk_mb == pytest.approx((slow / "fake.json").stat().st_size / 1e6)
    assert first.model == {"fake.json": fingerprint(slow / "fake.json")}
    assert first.machine["threads"] == 1 and first.machine["cpu"] and "numpy" in first.machine["versions"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| model | RTF | 90 % below | relative to the first | final text s | MB |")
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| slow", "| fast"]


def test_each_process_has_its_own_peak_of_memory(recipe: Path) -> None:
    large = fake_recogniser.write(recipe / "large", ballast=200_000_000)
    small = fake_recogniser.write(recipe / "small")
    measure.main([str(large), str(small), "--data", "test", "--rounds", "1", "--utterances", "1"])
    peaks = [
        record.memory_mb for path in (large, small) if (record := read_measurement(path / "inference/test"))
    ]
    assert 150 < peaks[0] - peaks[1] < 250


def test_latency_of_models_that_stream_and_that_do_not(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = fake_recogniser.write(recipe / "whole", whole="needs all of it")
    stream = fake_recogniser.write(recipe / "stream", chunk=160)
    measure.main([str(whole), str(stream), "--data", "test", "--rounds", "1", "--stream"])
    first, second = (read_measurement(path / "inference/test") for path in (whole, stream))
    assert first is not None and second is not None and first.first_text_s and second.first_text_s
    assert (first.chunk_ms, second.chunk_ms) == (None, 10)
    assert first.first_text_s.p10 > min(UTTERANCES.values()) / 16000 > second.first_text_s.p90  # about 10 ms
    out = capsys.readouterr().out
    assert f"{whole} decodes whole utterances: it needs all of it" in out and "| final text s |" in out


def test_the_record_is_beside_the_decoded_set(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exp = fake_recogniser.write(recipe / "exp", words="one two")
    (exp / "decode_asr/test").mkdir(parents=True)
    write_table(exp / "decode_asr/test/text", dict.fromkeys(UTTERANCES, "one two") | {"u3": "one"})
    measure.main([str(exp), "--data", "test", "--rounds", "1"])
    assert read_measurement(exp / "decode_asr/test") is not None
    assert "warning: 1 of 6 texts are not those in" in capsys.readouterr().out
    (exp / "other/test").mkdir(parents=True)
    write_table(exp / "other/test/text", dict.fromkeys(UTTERANCES, "one two"))
    with pytest.raises(UserError, match="was decoded as decode_asr, other: choose with --inference_tag"):
        measure.main([str(exp), "--data", "test", "--rounds", "1"])
    with pytest.raises(UserError, match="would get several records: give each model its --inference_tag"):
        measure.main([str(exp), str(exp), "--data", "test", "--inference_tag", "other"])


def test_a_link_to_a_set_has_the_name_of_the_link(recipe: Path) -> None:
    exp = fake_recogniser.write(recipe / "exp")
    (recipe / "linked").symlink_to(recipe / "test")
    args = measure.parser().parse_args([str(exp), "--data", "linked/"])
    assert measure.places_of(args) == [exp / "inference/linked"]


def test_nothing_is_written_if_one_model_fails(recipe: Path) -> None:
    good, bad = fake_recogniser.write(recipe / "good"), fake_recogniser.write(recipe / "bad", fails=True)
    with pytest.raises(UserError, match=r"u0\.\w+ of u0 cannot be decoded: no such kernel"):
        measure.main([str(good), str(bad), "--data", "test"])
    assert not (good / "inference").exists()


def test_speech_of_another_rate_is_refused(recipe: Path) -> None:
    exp = fake_recogniser.write(recipe / "exp", rate=8000)
    with pytest.raises(UserError, match="of u0 has 16000 Hz, .* expects 8000: format the data"):
        measure.main([str(exp), "--data", "test"])


def test_characters_are_counted_where_a_recipe_counts_them(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exp = fake_recogniser.write(recipe / "exp", words="one too")
    options = [str(exp), "--data", "test", "--rounds", "1", "--utterances", "2", "--metric", "cer"]
    measure.main(options)
    record = read_measurement(exp / "inference/test")
    # "one two" has 7 characters, of which "w" became "o"
    assert record is not None and (record.metric, record.errors, record.words) == ("cer", 2, 14)
    assert "errors/characters |" in capsys.readouterr().out.splitlines()[0]


def test_a_set_without_transcripts_has_no_errors(recipe: Path) -> None:
    (recipe / "test/text").unlink()
    exp = fake_recogniser.write(recipe / "exp")
    measure.main([str(exp), "--data", "test", "--rounds", "1"])
    record = read_measurement(exp / "inference/test")
    assert record is not None and (record.errors, record.words) == (None, None)


@pytest.mark.parametrize("number", [1, 4, 5, 6, 9])
def test_utterances_are_chosen_from_all_over_the_set(recipe: Path, number: int) -> None:
    found = list(measure.choose(measure.dump.read_dump(recipe / "test"), number))
    assert len(found) == min(number, 6) and found[0] == "u0" and found == sorted(found)
    assert number == 1 or int(found[-1][1:]) >= 3


@pytest.mark.parametrize(
    ("number", "counted"), [(3, [0, 1, 2]), (9, [0, 1, 3, 5, 7]), (50, [0, 10, 20, 30, 40])]
)
def test_operations_are_counted_all_over_the_set(number: int, counted: list[int]) -> None:
    asked: list[int] = []

    class Counting:
        def count(self, utt: str, wav: str) -> dict[str, float]:
            asked.append(int(utt[1:]))
            return {"total": 30, "encoder": 10, "duration_s": 2.0}

    found = measure.count_operations(Counting(), {f"u{i}": "" for i in range(number)})  # type: ignore[arg-type]
    assert asked == counted
    assert found == {"multiply_adds_per_s": 15, "encoder_multiply_adds_per_s": 5}


def test_a_process_that_ends_is_reported(recipe: Path) -> None:
    exp = fake_recogniser.write(recipe / "exp", dies=True)
    with Measured(exp, DecodingOptions()) as model, pytest.raises(UserError, match="has ended with status 3"):
        model.decode("u0", str(recipe / "test/u0.wav"))
    with Measured(fake_recogniser.write(recipe / "killed"), DecodingOptions()) as model:
        os.kill(model.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="was ended by signal 9: is there memory enough"):
            model.memory()


def test_the_processes_end_with_the_block(recipe: Path) -> None:
    with Measured(fake_recogniser.write(recipe / "exp"), DecodingOptions()) as model:
        pid = model.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_ctrl_c_ends_the_processes_at_once(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exp = fake_recogniser.write(recipe / "exp", seconds=60)
    started: list[Measured] = []

    def interrupted(model: Measured, utt: str, wav: str) -> None:
        started.append(model)
        assert model._process.stdin is not None
        model._process.stdin.write(json.dumps({"do": "decode", "utt": utt, "wav": wav}) + "\n")
        model._process.stdin.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(Measured, "decode", interrupted)
    monkeypatch.setattr(process, "CLOSING", 60)
    begin = time.monotonic()
    with pytest.raises(SystemExit, match="130"):
        measure.main([str(exp), "--data", "test"])
    assert time.monotonic() - begin < 30 and started[0]._process.poll() == -signal.SIGKILL


def test_options_of_espnet_are_for_the_experiments_among_the_models(recipe: Path) -> None:
    exp = fake_recogniser.write(recipe / "exp")
    (exp / "onnx").mkdir()
    (exp / "onnx" / "export.json").touch()
    words = ["--data", "test", "--checkpoint", "a.pth", "--inference_args", "--beam_size 2"]
    words += ["--inference_config", "a.yaml"]
    both = measure.parser().parse_args([str(exp), str(exp / "onnx"), *words])
    assert [(o.checkpoint, o.inference_config, o.inference_args) for o in measure.options_of(both)] == [
        ("a.pth", Path("a.yaml"), "--beam_size 2"),
        (None, None, ""),
    ]
    alone = measure.parser().parse_args([str(exp / "onnx"), *words])  # is refused when it is loaded
    assert measure.options_of(alone)[0].checkpoint == "a.pth"


def test_options_for_one_model_or_for_each() -> None:
    assert measure.one_for_each(["a"], 3, "--x") == ["a"] * 3
    assert measure.one_for_each(["a", "b"], 2, "--x") == ["a", "b"]
    with pytest.raises(UserError, match="--x has 2 values for 3 models: give one, or one for each"):
        measure.one_for_each(["a", "b"], 3, "--x")
