"""Pseudo-labels of real ESPnet models: stock hypotheses, with one worker or two of which one is killed."""

import contextlib
import threading
import time
from pathlib import Path

import psutil
import pytest
import soundfile
import torch
import yaml
from miniature import contents
from recipe import RATE, TOKENS, Recipe

from espnet_kd.decoding import records
from espnet_kd.errors import UserError
from espnet_kd.pseudo_label import command

pytestmark = [pytest.mark.slow(seconds=15), pytest.mark.long]

SEARCH = "--beam_size 3 --maxlenratio 0.4"
TRANSDUCER = {
    "encoder_conf": {
        "body_conf": [{
            "block_type": "conformer", "hidden_size": 16, "linear_size": 16, "heads": 2,
            "conv_mod_kernel_size": 3,
        }],
    },
    "decoder": "stateless", "decoder_conf": {"embed_size": 8}, "joint_network_conf": {"joint_space_size": 8},
    "frontend_conf": {"fs": RATE, "n_fft": 400, "hop_length": 160},
}  # fmt: skip


def label(recipe: Recipe, dst: Path, *options: str, teacher: str = "exp/teacher", data: str = "dev") -> None:
    """Run the command in the recipe's directory; the filters let nearly everything pass."""
    words = ["--teacher", teacher, "--data", f"dump/raw/{data}", "--dst", str(dst), "--max_repeats", "100"]
    with contextlib.chdir(recipe.root):
        command.main([*words, "--min_rate", "0", *options])


def kill_a_worker(decode_dir: Path, killed: list[int]) -> None:
    """Wait for the first shard, then kill a worker of this process."""
    deadline = time.monotonic() + 120
    while not list(decode_dir.glob("[0-9]*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    for child in psutil.Process().children():
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()
            killed.append(child.pid)
            return


@pytest.mark.filterwarnings("ignore:Couldn't detect a suitable IP address")  # Dask asks on import
def test_workers_say_what_stock_inference_says(recipe: Recipe, tmp_path: Path) -> None:
    from espnet2.bin.asr_inference import main as stock

    options = ["--inference_args", SEARCH, "--shards", "3", "--references", "dump/raw/dev/text"]
    label(recipe, tmp_path / "one", *options, "--workers", "1")
    with contextlib.chdir(recipe.root):
        stock(
            cmd=["--asr_train_config", "exp/teacher/config.yaml",
                 "--asr_model_file", "exp/teacher/valid.acc.ave.pth",
                 "--data_path_and_name_and_type", "dump/raw/dev/wav.scp,speech,sound",
                 "--output_dir", str(tmp_path / "stock"), *SEARCH.split()]
        )  # fmt: skip
    found = {r.utt: r.nbest for r in records.read_decoded(tmp_path / "one/decode")}
    lines = (tmp_path / "stock/1best_recog/text").read_text().splitlines()
    assert {utt: nbest[0].text.strip() for utt, nbest in found.items()} == {
        line.split(" ")[0]: line.partition(" ")[2].strip() for line in lines
    }
    scores = dict(s.split(" ", 1) for s in (tmp_path / "stock/1best_recog/score").read_text().splitlines())
    for utt, nbest in found.items():
        assert f"{nbest[0].score:.4f}" in f"{float(scores[utt].removeprefix('tensor(').rstrip(')')):.4f}"
        assert len(nbest) > 1 and nbest[0].scores.keys() == {"decoder", "ctc"}

    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "two/decode", killed))
    killer.start()
    label(recipe, tmp_path / "two", *options, "--workers", "2")
    killer.join()
    assert killed
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


@pytest.fixture
def transducer(recipe: Recipe) -> str:
    """An experiment of a transducer with random weights; returns its directory in the recipe."""
    from espnet2.tasks.asr_transducer import ASRTransducerTask

    exp = recipe.root / "exp/transducer"
    config = ASRTransducerTask.get_default_config() | TRANSDUCER
    config |= {
        "token_list": list(TOKENS), "token_type": "char", "normalize": "global_mvn", "bpemodel": None,
        "normalize_conf": {"stats_file": "stats/train/feats_stats.npz"}, "output_dir": None,
    }  # fmt: skip
    exp.mkdir(exist_ok=True)
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(1)
    with contextlib.chdir(recipe.root):
        model, _ = ASRTransducerTask.build_model_from_file("exp/transducer/config.yaml")
    with torch.no_grad():  # or else it would be silent
        model.joint_network.lin_out.weight *= 4
        model.joint_network.lin_out.bias[3:6] += 2
    torch.save(model.state_dict(), exp / "valid.loss.ave.pth")
    return "exp/transducer"


def test_a_transducer_teaches(recipe: Recipe, transducer: str, tmp_path: Path) -> None:
    from espnet2.bin.asr_transducer_inference import Speech2Text

    search = tmp_path / "decode.yaml"
    search.write_text("beam_size: 2\nbeam_search_config: {search_type: alsd}\n")
    options = ["--inference_config", str(search), "--nbest", "2", "--workers", "1", "--max_rate", "1000"]
    label(recipe, tmp_path / "dst", *options, teacher=transducer)
    found = {r.utt: r.nbest for r in records.read_decoded(tmp_path / "dst/decode")}
    with contextlib.chdir(recipe.root):
        stock = Speech2Text(
            f"{transducer}/config.yaml",
            f"{transducer}/valid.loss.ave.pth",
            {"search_type": "alsd"},
            beam_size=2,
        )
        for utt, nbest in found.items():
            speech, _ = soundfile.read(f"dump/raw/dev/{utt}.wav", dtype="float32")
            text, tokens, _, hypothesis = stock.hypotheses_to_results(stock(speech))[0]
            assert (nbest[0].text, nbest[0].tokens) == (text, len(tokens))
            assert nbest[0].score == pytest.approx(hypothesis.score, abs=1e-3)


@pytest.mark.parametrize("kind", ["attention", "transducer"])
def test_batches_give_the_hypotheses_of_single_utterances(
    recipe: Recipe, request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    teacher, options = "exp/teacher", ["--inference_args", SEARCH]
    if kind == "transducer":
        teacher, options = request.getfixturevalue("transducer"), ["--max_rate", "1000"]
    options += ["--workers", "1", "--nbest", "1"]
    label(recipe, tmp_path / "one", *options, teacher=teacher)
    label(recipe, tmp_path / "many", *options, "--batch_size", "3", teacher=teacher)
    one, many = (list(records.read_decoded(tmp_path / name / "decode")) for name in ("one", "many"))
    assert [(r.utt, r.samples, [h.text for h in r.nbest]) for r in many] == [
        (r.utt, r.samples, [h.text for h in r.nbest]) for r in one
    ]
    assert [r.nbest[0].score for r in many] == pytest.approx([r.nbest[0].score for r in one], abs=1e-2)
    assert len({r.samples for r in one}) > 1  # so there is padding
    with pytest.raises(UserError, match=r"of another batch_size \(batch_size 3, now None\)"):
        label(recipe, tmp_path / "many", *options, teacher=teacher)


def test_a_student_that_streams_labels_whole_utterances(
    recipe: Recipe, transducer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--workers", "1", "--max_rate", "1000", "--inference_args"]
    label(recipe, tmp_path / "whole", *options, "--beam_size 2", teacher=transducer)
    label(recipe, tmp_path / "chunks", *options, "--beam_size 2 --streaming true", teacher=transducer)
    assert "streaming is left out" in capsys.readouterr().out
    assert (tmp_path / "chunks/text").read_text() == (tmp_path / "whole/text").read_text() != ""


def test_teachers_and_options_that_do_not_fit(recipe: Recipe, tmp_path: Path) -> None:
    def refused(message: str, *options: str, **changes: str) -> None:
        with pytest.raises(UserError, match=message):
            label(recipe, tmp_path / "dst", "--workers", "1", *options, **changes)
        assert not list(tmp_path.glob("dst/decode/*.jsonl"))

    refused("directory exp/no does not exist: give that of a trained ESPnet", teacher="exp/no")
    refused("give the directory of a trained ESPnet experiment", teacher="dump")
    refused("has no no.pth; it has 1epoch.pth", "--checkpoint", "no.pth")
    refused("unrecognized arguments: --beem_size 3", "--inference_args", "--beem_size 3")
    (tmp_path / "decode.yaml").write_text("beam: 3\n")
    refused("unrecognized arguments: beam", "--inference_config", str(tmp_path / "decode.yaml"))
    slow = recipe.root / "dump/raw/slow"
    slow.mkdir(exist_ok=True)
    soundfile.write(slow / "a.wav", torch.zeros(8000).numpy(), 8000)
    (slow / "wav.scp").write_text("a dump/raw/slow/a.wav\n")
    refused("a.wav of a has 8000 Hz, the teacher expects 16000", data="slow")
