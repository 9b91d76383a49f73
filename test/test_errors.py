"""Bad input to every command: exit status 1 and one line that names what is wrong, and no traceback."""

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path

import fabricated
import pytest
from miniature import write_speech

from espnet_kd import __main__ as cli
from espnet_kd.command_line import COMMANDS, GROUPS, example
from espnet_kd.errors import UserError, refusing

LONG = "n" * 300  # longer than the name of a file can be
UTTERANCES = ("s1-u1", "s2-u2")


@pytest.fixture(autouse=True)
def own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the words of the command line that ``train`` writes for ESPnet's log out of other tests."""
    monkeypatch.setattr(sys, "argv", ["espnet-kd"])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything that a command takes, and of everything that it cannot take."""
    root = tmp_path_factory.mktemp("inputs")
    write_speech(root / "data", dict.fromkeys(UTTERANCES, 1600))
    shutil.copytree(root / "data", root / "dump")
    (root / "dump/utt2num_samples").write_text("".join(f"{utt} 1600\n" for utt in UTTERANCES))
    fabricated.write_experiment(root / "exp", fabricated.config(), {"role": "teacher"})
    (root / "good.yaml").write_text("a: 1\n")
    (root / "broken.yaml").write_text("a: [1\n")
    (root / "list.yaml").write_text("- 1\n")
    (root / "mutual.yaml").write_text("mutual: 1\n")
    (root / "binary").write_bytes(b"\xff\xfe\x00\x80" * 9)
    (root / "file").write_text("a b\n")
    (root / "unreadable").symlink_to("unreadable")  # also for a superuser, whom no permission stops
    (root / "empty").mkdir()
    return root


# Command, its bad input, and what the line must name.
BAD = [
    ("check", "--config missing.yaml --token_list file", "missing.yaml does not exist"),
    ("merge", "missing.yaml", "missing.yaml does not exist"),
    ("merge", "empty", "empty cannot be read: Is a directory"),
    ("merge", "unreadable", "unreadable cannot be used: Too many levels of symbolic links"),
    ("merge", LONG, "n cannot be used: File name too long"),
    ("merge", "file/x", "file/x cannot be read: Not a directory"),
    ("merge", "binary", "binary: not YAML: it is not UTF-8 text"),
    ("merge", "broken.yaml", "broken.yaml:2: not YAML"),
    ("merge", "list.yaml", "list.yaml holds a list"),
    ("merge", "good.yaml --out empty", "cannot write empty: it is a directory"),
    ("merge", "good.yaml --out file/x", "cannot write file/x: "),
    ("prepare", "nowhere", "corpus 'nowhere': known are an4, "),
    ("prepare", "an4 missing out", "missing is not a directory, a file or a URL"),
    ("prepare", "librispeech missing out", "missing is not a directory, a file or a URL"),
    ("prepare", "librilight file out", "file is not a directory"),
    ("prepare", "switchboard missing out", "missing is not a directory"),
    ("prepare", "eval2000 unreadable out", "unreadable cannot be used"),
    ("prepare", "csj empty out", "empty"),
    ("prepare", "rt03 empty out", "no eval03/english/cts/sw_NNNNN.sph below"),
    ("prepare", "fisher empty out", "no fe_03_NNNNN.txt below"),
    ("prepare", "digits --train 0 out", "--train"),
    ("perturb", "missing out", "missing is not a directory"),
    ("perturb", "data file", "file"),
    ("perturb", "data out --factors 0.9,1", "--factors '0.9,1'"),
    ("format", "empty out", "empty/wav.scp does not exist"),
    ("format", "data file", "file"),
    ("format", "data out --fs fast", "fast"),
    ("lengths", "data out", "data/utt2num_samples does not exist"),
    ("lengths", "dump out --min 3 --max 2", "3"),
    ("lengths", "dump out --min nan", "--min nan"),
    ("tokens", "--token_type char --out out --text binary", "binary is not UTF-8 text"),
    ("tokens", "--token_type char --out out --text data/text --nlsyms empty", "empty cannot be read"),
    ("tokens", "--token_type char --out out --text data/text --cleaner soap", "argument --cleaner: invalid"),
    ("tokens", "--token_type bpe --out out --text data/text --bpe_char_cover 2", "--bpe_char_cover 2: "),
    ("targets", "--store missing --verify", "missing"),
    ("targets", "--store out", "give --config YAML"),
    ("targets", "--store out --config broken.yaml --data dump --teacher exp", "broken.yaml:2: not YAML"),
    ("pseudo-label", "--teacher missing --data dump --dst out", "directory missing does not exist"),
    ("pseudo-label", "--teacher exp --data missing --dst out", "missing"),
    ("pseudo-label", "--teacher exp --data dump --dst out --cluster missing.yaml", "missing.yaml does not"),
    ("pseudo-label", "--labeller hf --data dump --dst out", "--labeller hf needs --model"),
    ("pseudo-label", "--import missing --data dump --dst out", "missing does not exist"),
    ("pseudo-label", "--import file --data dump --dst out --normalise soap", "--normalise soap: no such"),
    ("label-table", "raw=missing", "missing/manifest.json does not exist"),
    ("mix", "--labelled dump --pseudo missing --token_type char --token_list file out", "missing/wav.scp"),
    ("mix", "--labelled dump --pseudo dump --share 2 --token_type char --token_list file out", "--share 2"),
    ("kept-mass", "--teacher missing --data dump --out out", "directory missing does not exist"),
    ("kept-mass", "--teacher exp --data dump --out out --temperature 0", "--temperature 0"),
    ("kept-mass", "--teacher exp --data dump --out out", "exp/config.yaml: this ESPnet builds no"),
    ("decode-ensemble", "--teacher exp --data dump --out out", "--teacher: an ensemble has at least two"),
    ("decode-ensemble", "--teacher exp file --data dump --out out", "directory file does not exist"),
    ("score", "--ref missing --hyp file --out out", "missing does not exist"),
    ("score", "--ref file --hyp binary --out out", "binary is not UTF-8 text"),
    ("score", "--ref file --hyp file --out out --against file", "file/score.json cannot be read: Not a"),
    ("score", "--ref file --hyp file --out out --against exp", "exp/score.json does not exist: run"),
    ("score", "--ref file --hyp file --out out --cleaner soap", "--cleaner soap: "),
    ("score-eval2000", "missing --data empty", "empty/text does not exist"),
    ("score-eval2000", "data --data data --hubscr missing", "missing does not exist: give the path"),
    ("best", "--decoded tag/dev exp", "exp/tag/dev has no score"),
    ("report", "--expdir missing --test_sets test", "missing: no experiment has a score of test"),
    ("report", "--plan missing.yaml", "missing.yaml does not exist"),
    ("experiments", "missing.yaml", "missing.yaml does not exist"),
    ("experiments", "good.yaml", "good.yaml: unknown key a; known: title"),
    ("layers", "missing", "directory missing does not exist"),
    ("layers", "exp --model missing.pth", "missing.pth"),
    ("sizes", "missing.yaml", "missing.yaml does not exist"),
    ("batches", "good.yaml --shapes missing", "missing does not exist"),
    ("batches", "good.yaml --shapes file", "file:1: expected `ID LENGTH`"),
    ("batches", "good.yaml --shapes file --ngpu -1", "--ngpu -1: give a number from 0 up"),
    ("dry-run", "--option stage=1", "--option has no fs: call this by `./run.sh --dry_run true`"),
    ("dry-run", "--option fs=fast", "fast"),
    ("parts", "--set missing --among dump", "missing/utt2num_samples does not exist"),
    ("parts", "--set dump --among data --decoded exp", "dump does not consist of data"),
    ("parts", "--set dump --among dump --decoded empty", "empty/dump/text does not exist"),
    ("token-from", "missing --token_type char --out out", "directory missing does not exist"),
    ("token-from", "exp --token_type word --out out", "--token_type word: exp has tokens of the type "),
    ("token-from", "exp --kind x --token_type word --out out", "--kind x: "),
    ("evaluate-teacher", "missing --data dump --out out", "directory missing does not exist"),
    ("evaluate-teacher", "empty --kind hf --data dump --out out", "empty has no config.json: give the"),
    ("frame-weights", "exp --data missing", "missing/wav.scp does not exist"),
    ("demo-page", "--data missing", "missing/text does not exist"),
    ("demo-page", "--data dump --expdir missing", "missing: no experiment has a score of dump"),
    ("demo-page", "--data dump --number 0", "--number 0: give 1 or more"),
    ("shrink", "missing --config good.yaml --out out", "directory missing does not exist"),
    ("shrink", "exp --config missing.yaml --out out", "exp/config.yaml: this ESPnet builds no"),
    ("export", "missing --check dump", "directory missing does not exist"),
    ("export", "exp --check dump --opset 9", "--opset 9: give 18 to 23"),
    ("export", "exp --check dump --tolerance -1", "--tolerance -1: give points of WER"),
    ("export", "exp --check dump --stream --left_context 0", "--left_context: give 1 or more"),
    ("export", "exp --check dump --decoding_window 320", "are for chunks: give --stream as well"),
    ("export", "exp --check dump --keep_float encoder", "give --int8 as well"),
    ("measure", "exp missing --data dump", "missing is not a directory: give that of a trained experiment"),
    ("measure", "empty --data dump", "empty has no config.yaml"),
    ("measure", "exp --data missing", "missing is not a directory"),
    ("measure", "exp --data dump --rounds 0", "--rounds 0: give a number from 1 up"),
    ("measure", "exp --data dump --inference_config a b", "--inference_config has 2 values for 1 models"),
    ("transcribe", "missing file", "missing is not a directory"),
    ("transcribe", "exp missing.wav", "missing.wav does not exist: give an audio file, or - for a pipe"),
    ("transcribe", "exp file", "file cannot be read as audio: "),
    ("transcribe", "exp file --longest 0", "--longest 0: give a number of seconds from 1 up"),
    ("transcribe", "exp data/s1-u1.wav --inference_config missing.yaml", "missing.yaml"),
    ("delay", "--teacher file --student file --data dump", "directory file does not exist"),
    ("delay", "--teacher exp --student exp --data dump --utterances 0", "--utterances 0"),
    ("statistics", "base missing.yaml", "missing.yaml does not exist"),
    ("statistics", "base good.yaml --args '", '--args "\'": no closing quotation'),
    ("contents", "missing", "cannot read missing: No such file"),
    ("contents", "empty", "empty/wav.scp does not exist"),
    ("runs", "start out/new --role student --config missing.yaml", "missing.yaml does not exist"),
    ("runs", "start out/new --role student --config good.yaml --mix missing", "missing does not exist"),
    ("runs", "start file/x --role student --config good.yaml", "file"),
    ("runs", "finish empty", "empty/run.json does not exist"),
    ("phases", "--config list.yaml", "list.yaml holds a list"),
    ("peers", "empty", "empty/config.yaml does not exist"),
    ("adopt", "missing --expdir out", "missing/config.yaml does not exist"),
    ("check-lm", "exp", "--lm_train_config and --lm_file are missing"),
    ("check-lm", "--lm_train_config missing --lm_file missing exp", "missing does not exist"),
    ("download-model", "binary --expdir out", "binary is damaged or not an archive"),
    ("upload", "missing --repo user/name", "missing is not a file: pack the model by stage 12"),
    ("upload", "binary --repo name", "--repo name: give the name of a repository"),
    ("pseudo-label", "--teacher exp --data dump --dst out --lm_file file", "--lm_train_config and --lm_file"),
    ("progress", f"{LONG} --pid 1", "n cannot be used: File name too long"),
    ("train", "--config missing.yaml --output_dir out", "missing.yaml does not exist"),
    ("train", "--config broken.yaml --output_dir out", "broken.yaml:2: not YAML"),
    ("train", "--config good.yaml --output_dir out", "good.yaml: unknown key a; `espnet-kd train"),
    ("train", "--output_dir file/x", "cannot make the output directory file/x: "),
    ("train", "--output_dir out --token_type char --token_list missing", "token_list: missing does not"),
    ("train", "--output_dir out --token_type char --token_list file", "--train_data_path_and_name"),
]


@pytest.mark.parametrize(("command", "options", "expected"), BAD, ids=[f"{c} {o:.60}" for c, o, _ in BAD])
def test_bad_input_is_one_line(
    command: str,
    options: str,
    expected: str,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.dispatch([command, *options.split()])
    line = stopped.value.code
    assert isinstance(line, str), capsys.readouterr().err  # Python prints a text and ends with status 1
    assert line.startswith("espnet-kd: error: ") and expected in line and "\n" not in line
    assert "Traceback" not in capsys.readouterr().err


def test_every_command_has_bad_input_in_the_table() -> None:
    assert {command for command, *_ in BAD} == COMMANDS.keys() - {"doctor"}  # which takes none


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_one_line_of_argparse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"prepare": ["an4"], "runs": ["finish"]}.get(name, [])
    with pytest.raises(SystemExit) as stopped:
        cli.dispatch([name, *words, "--no_such_option"])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"espnet-kd {name}") and ": error: " in last


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("lengths a b --min few", "argument --min: invalid float value: 'few'"),
        ("format a b --nj few", "argument --nj: invalid int value: 'few'"),
        ("best a --decoded b --metric mer", "argument --metric: invalid choice: 'mer'"),
        (f"score --ref {LONG} --hyp b --out c", "n cannot be used: File name too long"),
    ],
)
def test_a_value_of_the_wrong_type(options: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.dispatch(options.split())
    assert stopped.value.code == 2 and expected in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_shows_its_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "prepare":
        cli.dispatch([name, "--help"])
    else:
        with pytest.raises(SystemExit) as stopped:
            cli.dispatch([name, "--help"])
        assert stopped.value.code in (None, 0)
    printed = capsys.readouterr().out
    assert f"usage: espnet-kd {name} " in printed and "python" not in printed.partition("\n")[0]
    assert example(name).split() == printed.rpartition("example:")[2].split()


class Parsed(Exception):
    """The options were accepted."""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_has_its_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def stop(*args: object, **options: object) -> None:
        parse(*args, **options)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    if name == "train":  # its configuration is read before ESPnet parses
        return
    with pytest.raises(Parsed):
        cli.dispatch([name, *shlex.split(COMMANDS[name].example)])


def test_a_command_is_in_one_group() -> None:
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)


def test_a_criterions_refusal_names_the_part_of_the_configuration() -> None:
    with pytest.raises(UserError, match="^criterion ctc: k is 9$") as refused, refusing("criterion ctc"):
        raise ValueError("k is 9")
    assert isinstance(refused.value.__cause__, ValueError)
    with pytest.raises(UserError, match="^data/text$"), refusing("criterion ctc"):
        raise UserError("data/text")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to a superuser")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\n")
    (tmp_path / "a.yaml").chmod(0)
    with pytest.raises(SystemExit) as stopped:
        cli.dispatch(["merge", str(tmp_path / "a.yaml")])
    assert str(stopped.value.code).endswith("a.yaml cannot be read: Permission denied")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"encoder": "conformr"}, "encoder is 'conformr': choose one of conformer, "),
        ({"optim": 1}, "optim is 1: choose one of "),
        ({"token_list": "missing"}, "token_list: missing does not exist"),
        ({"valid_shape_file": ["missing"]}, "--valid_shape_file: missing does not exist"),
        ({"train_shape_file": []}, "--train_shape_file is missing: give the file"),
        ({"train_data_path_and_name_and_type": []}, "--train_data_path_and_name_and_type is missing"),
    ],
)
def test_a_training_is_checked_before_espnet_builds(change: dict, expected: str, inputs: Path) -> None:
    from espnet_kd.tasks.asr import check_inputs

    table = str(inputs / "data/text")
    data = {f"{part}_data_path_and_name_and_type": [(table, "text", "text")] for part in ("train", "valid")}
    shapes = dict.fromkeys(("train_shape_file", "valid_shape_file"), [table])
    good = {**data, **shapes, "encoder": "conformer", "optim": "adam", "scheduler": None, "token_list": table}
    good |= {"bpemodel": None, "iterator_type": "sequence", "collect_stats": False}
    known = {"encoder": ["conformer", "rnn"], "optim": ["adam"], "scheduler": ["noamlr"]}
    check_inputs(argparse.Namespace(**good), known)
    with pytest.raises(UserError) as refused:
        check_inputs(argparse.Namespace(**(good | change)), known)
    assert str(refused.value).startswith(expected)


def test_speech_has_the_rate_of_the_front_end(inputs: Path) -> None:
    """`--fs 8k` after stage 3 would train on features of other frequencies without a word."""
    from espnet_kd.tasks.asr import check_rate

    speech = [(str(inputs / "data/wav.scp"), "speech", "sound")]
    data = {f"{part}_data_path_and_name_and_type": speech for part in ("train", "valid")}
    for conf, size in (({"fs": "16k"}, None), ({}, None), (None, None), ({"fs": "8k"}, 80)):  # 80: features
        check_rate(argparse.Namespace(frontend_conf=conf, input_size=size, **data))
    with pytest.raises(UserError, match="s1-u1 has 16000 samples a second, but the front end is for 8k"):
        check_rate(argparse.Namespace(frontend_conf={"fs": "8k"}, input_size=None, **data))
