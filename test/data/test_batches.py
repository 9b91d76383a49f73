"""How much speech a training puts on a GPU, and its batches on other numbers of GPUs."""

from argparse import Namespace
from pathlib import Path

import pytest

from espnet_kd.data.batches import Batches, Speech, describe, fit, limit, main, of_config, read_shapes
from espnet_kd.errors import UserError

WIDE = {"encoder_conf": {"output_size": 512}}


@pytest.fixture()
def shapes(tmp_path: Path) -> list[Path]:
    """Two utterances of 1 s and 3 s at 16 kHz, with 2 and 4 of 10 tokens."""
    (tmp_path / "speech_shape").write_text("a 16000\nb 48000\n")
    (tmp_path / "text_shape.char").write_text("a 2,10\nb 4,10\n")
    return [tmp_path / "speech_shape", tmp_path / "text_shape.char"]


@pytest.mark.parametrize(
    ("gpus", "accum_grad", "bins", "iterations"),
    [
        (4, 4, 36, 10),  # as written
        (2, 8, 18, 20),
        (1, 16, 9, 40),
        (3, 6, 24, 15),  # 4 * 4 / 3 = 5.33 is rounded up, and 36 * 4 / 6 = 24: 8 on a GPU instead of 9
        (5, 4, 36, 10),  # 3.2 is rounded up
        (16, 1, 144, 2),  # 2.5 batches of an epoch are rounded down
        (32, 1, 144, 2),  # no fewer than one batch an update: half as much on a GPU
        (0, 4, 36, 10),  # the CPU
    ],
)
def test_an_update_sees_as_much_on_any_number_of_gpus(
    gpus: int, accum_grad: int, bins: int, iterations: int
) -> None:
    found = Batches("numel", 36, 4, 10).for_gpus(gpus, written_for=4)
    assert found == Batches("numel", bins, accum_grad, iterations)
    assert found.size * found.accum_grad == 36 * 4
    assert gpus == 0 or found.size / gpus <= 36 / 4


def test_an_epoch_keeps_its_updates() -> None:
    """ESPnet's trainer updates after each ``accum_grad`` batches of an epoch, counted anew in every epoch."""
    for iterations in range(3, 30):
        for gpus in range(1, 20):
            found = Batches("numel", 1001, 3, iterations).for_gpus(gpus, written_for=4)
            assert found.iterations // found.accum_grad == iterations // 3, (iterations, gpus)


def test_rounding_never_gives_an_update_or_a_gpu_more() -> None:
    for gpus in range(1, 40):
        found = Batches("numel", 1001, 3).for_gpus(gpus, written_for=4)
        assert found.size * found.accum_grad <= 1001 * 3 and found.size / gpus <= 1001 / 4


def test_without_a_number_of_gpus_and_with_utterances_as_size() -> None:
    batches = Batches("numel", 36, 4)
    assert batches.for_gpus(2, written_for=0) == batches
    assert Batches("sorted", 8, 2).for_gpus(1, 4) == Batches("sorted", 2, 8)
    assert Batches("sorted", 2, 1).for_gpus(1, 4) == Batches("sorted", 1, 4)  # no batch is empty


def test_seconds_of_a_batch(shapes: list[Path]) -> None:
    data = read_shapes(shapes, 16000)
    assert data == Speech(2, 4.0, 64000 + 6, 64000 + 60)
    assert Batches("numel", 64060, 1).speech(data) == pytest.approx(4.0)
    assert Batches("length", 64006 // 2, 1).speech(data) == pytest.approx(2.0)
    assert Batches("sorted", 6, 1).speech(data) == pytest.approx(12.0)  # six utterances of 2 s


def test_of_a_configuration_and_of_options_that_override_it() -> None:
    assert of_config({}) == Batches("folded", 20, 1)
    config = {"batch_type": "numel", "batch_bins": 500, "accum_grad": 2, "num_iters_per_epoch": 7}
    assert of_config(config) == Batches("numel", 500, 2, 7)
    assert of_config(config, "--batch_bins 90 --accum_grad=5 --seed 2") == Batches("numel", 90, 5, 7)
    assert of_config(config, "--num_iters_per_epoch none").iterations is None
    with pytest.raises(UserError, match="^batch_bins is 'many': give a whole number from 1 up$"):
        of_config(config, "--batch_bins many")


def test_the_options_of_a_training_change_in_place() -> None:
    args = Namespace(
        batch_type="numel", batch_bins=36, batch_size=20, accum_grad=4, num_iters_per_epoch=None,
        config_ngpu=4,
    )  # fmt: skip
    assert fit(args, gpus=1) == 4.0
    assert (args.batch_bins, args.batch_size, args.accum_grad, args.num_iters_per_epoch) == (9, 20, 16, None)


def test_the_limit_depends_on_the_kind_of_model() -> None:
    narrow = {"encoder_conf": {"output_size": 256}}
    assert (limit(WIDE), limit(narrow), limit({})) == (270, 490, 270)
    body = {"body_conf": [{"hidden_size": 144}, {"hidden_size": 512}]}
    assert limit({"encoder_conf": body, "joint_network_conf": {}}) == 135


def test_too_much_speech_on_a_gpu_gets_a_warning_and_a_way_out() -> None:
    data = Speech.of_rates(16000, 3.43, 5000)
    line, warning = describe(WIDE, Batches("numel", 35_000_000, 4), data, gpus=1)
    # 35e6 / (16000 + 3.43 * 5000) = 1056
    assert (
        line
        == "1056 s of speech on the GPU at a time, 4223 s in an update (batch_bins 35000000, accum_grad 4)"
    )
    assert warning.startswith("1056 s of speech on a GPU at a time: 270 s are known to fit 32 GB")
    assert warning.endswith("use 4 times the GPUs, or divide batch_bins and multiply accum_grad by 4")
    line, warning = describe(WIDE, Batches("numel", 35_000_000, 4), data, gpus=4)
    assert line.startswith("264 s of speech on each of 4 GPUs") and not warning
    assert not describe(WIDE, Batches("numel", 35_000_000, 4), data, gpus=0)[1]


def test_the_command_prints_a_line_and_a_warning(
    shapes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("batch_type: numel\nbatch_bins: 64060000\naccum_grad: 1\n")
    words = [str(config), "--shapes", *map(str, shapes), "--config_ngpu", "2"]
    main(words)
    assert capsys.readouterr().out.startswith("2000 s of speech on the GPU at a time, 4000 s in an update (")
    main([*words, "--num_nodes", "2", "--args", "--accum_grad 3"])
    out = capsys.readouterr().out
    assert (
        out.startswith("2000 s of speech on each of 2 GPUs at a time, 12000 s in")
        and "\nwarning: 2000 s" in out
    )


@pytest.mark.parametrize(
    ("text", "message"), [("a 1\nb\n", ":2: expected `ID LENGTH`"), ("", " lists no speech: collect")]
)
def test_a_damaged_shape_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "speech_shape").write_text(text)
    with pytest.raises(UserError, match=f"speech_shape{message}"):
        read_shapes([tmp_path / "speech_shape"], 16000)
