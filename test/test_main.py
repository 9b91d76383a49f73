"""The command line: its commands, its errors, and the stand-in for python3 in a stock recipe."""

import errno
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from fork_server import quick_python

from espnet_kd import __main__ as cli
from espnet_kd.command_line import GROUPS, Command, command_parser, example
from espnet_kd.errors import UserError


def espnet_kd(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "espnet_kd", *argv], capture_output=True, text=True)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A command `train` that notes its arguments and raises `error` if that is set."""
    command = SimpleNamespace(argv=None, error=None)

    def main(argv: list[str]) -> None:
        command.argv = argv
        if command.error:
            raise command.error

    monkeypatch.setitem(sys.modules, "fake_command", SimpleNamespace(main=main))
    monkeypatch.setitem(cli.COMMANDS, "train", Command("fake_command", "a stand-in", ""))
    return command


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_usage_lists_every_command_in_its_group(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(argv)
    printed = capsys.readouterr().out
    assert "--debug" in printed and "ESPNET_KD_DEBUG=1" in printed
    for group, commands in GROUPS.items():
        part = printed.partition(f"\n{group}:\n")[2].partition("\n\n")[0]
        for name, command in commands.items():
            assert f"  {name} " in part and command.text in part and f" {example(name)}\n" in f"{part}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_its_module(name: str) -> None:
    assert importlib.util.find_spec(cli.COMMANDS[name].module.partition(":")[0])


@pytest.mark.parametrize(
    ("name", "hint"), [("scoer", "; did you mean score?"), ("tokns", "; did you mean tokens?"), ("xyz", "")]
)
def test_an_unknown_command_fails_and_names_one_like_it(name: str, hint: str) -> None:
    result = espnet_kd(name)
    assert result.returncode == 1
    expected = f"espnet-kd: error: no command '{name}'{hint}; `espnet-kd --help` lists them all\n"
    assert (result.stdout, result.stderr) == ("", expected)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("tokens", "--token_type", "bpe", "--text", "a", "--out", "b", "--nbpe"), "--nbpe {}"),
        (("prepare", "digits", "out", "--nj"), "--nj {}"),
        (("progress", "log", "--pid"), "--pid {}"),
    ],
)
def test_a_number_that_no_library_can_use_is_refused(words: tuple[str, ...], named: str) -> None:
    huge = "1" + 29 * "0"
    result = espnet_kd(*words, huge)
    assert result.returncode == 1
    assert result.stderr == f"espnet-kd: error: {named.format(huge)}: give a number of at most 2147483647\n"


def test_an_option_of_several_values_may_be_given_several_times() -> None:
    parser = command_parser("experiments")
    parser.add_argument("--only", nargs="+", default=["all"])
    parser.add_argument("--jobs", type=int)
    assert parser.parse_args([]).only == ["all"]
    assert parser.parse_args("--only a b --jobs 2 --only c --jobs 1".split()).only == ["a", "b", "c"]
    assert parser.parse_args("--jobs 2 --jobs 1".split()).jobs == 1
    assert parser.parse_args([]).only == ["all"]  # a second call begins anew


@pytest.mark.parametrize("pid", ["0", "-1"])
def test_progress_refuses_a_number_that_is_no_process(pid: str, tmp_path: Path) -> None:
    result = espnet_kd("progress", str(tmp_path / "log"), "--pid", pid)
    message = f"--pid {pid} is not the id of a process: give a number of at least 1"
    assert (result.returncode, result.stderr) == (1, f"espnet-kd: error: {message}\n")


def test_train_names_the_options_that_are_missing() -> None:
    result = quick_python("-m", "espnet_kd", "train", "--task", "asr")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "espnet-kd: error: train needs --output_dir, --token_list: give that, or write it into --config; "
        "`espnet-kd train --help` lists all options"
    )


def test_an_unknown_task_is_refused_under_the_name_of_the_command() -> None:
    result = espnet_kd("train", "--task", "tts")
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("espnet-kd train: error: argument --task: invalid choice")


def test_a_command_gets_the_arguments_after_its_name(fake: SimpleNamespace) -> None:
    cli.main(["train", "--config", "a.yaml"])
    assert fake.argv == ["--config", "a.yaml"]


PRINT = """
import sys
import tempfile
from types import SimpleNamespace
from espnet_kd import __main__ as cli
from espnet_kd.command_line import Command
def main(argv):
    print("line\\n" * int(argv[0]))
    sys.exit(int(argv[1]))
sys.modules["fake"] = SimpleNamespace(main=main)
cli.COMMANDS["fake"] = Command("fake", "a stand-in", "")
"""


@pytest.mark.parametrize("argv", ["fake 1 0", "fake 100000 0", "fake 1 1", "--help"])
def test_a_reader_may_leave_early(argv: str) -> None:
    program = f"{PRINT}input()\ncli.main({argv.split()})"
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGPIPE


def test_a_closed_output_is_no_error() -> None:
    program = f"{PRINT}sys.stdout = None\ncli.main(['fake', '1', '0'])"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_what_is_printed_to_a_closed_stream_is_in_no_file(tmp_path: Path, closed: str) -> None:
    path = tmp_path / "file"
    program = f"""
import subprocess, sys
from types import SimpleNamespace
from espnet_kd import __main__ as cli
from espnet_kd.command_line import Command
def main(argv):
    with open({str(path)!r}, "w") as f:
        print("line", sys.stdout.isatty(), flush=True)
        subprocess.run(["sh", "-c", "cat; echo line; echo line >&2"], check=True)
        f.write("content")
sys.modules["fake"] = SimpleNamespace(main=main)
cli.COMMANDS["fake"] = Command("fake", "a stand-in", "")
cli.main(["fake"])
"""
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    assert path.read_text() == "content"


def test_another_broken_pipe_is_an_error(fake: SimpleNamespace) -> None:
    fake.error = BrokenPipeError
    with pytest.raises(BrokenPipeError):
        cli.main(["train"])


def test_a_users_mistake_is_one_line_and_exit_status_1(fake: SimpleNamespace) -> None:
    fake.error = UserError("data/test/text:3: an empty transcript")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train"])
    assert stopped.value.code == "espnet-kd: error: data/test/text:3: an empty transcript"  # text: status 1


@pytest.mark.parametrize(
    "error", [AssertionError, ValueError, FileNotFoundError, PermissionError, RuntimeError, KeyError]
)
def test_any_other_error_keeps_its_traceback(fake: SimpleNamespace, error: type[Exception]) -> None:
    fake.error = error("ours, or ESPnet's")
    with pytest.raises(error):
        cli.main(["train"])


@pytest.mark.parametrize("missing", ["espnet_kd.nowhere", None])
def test_a_missing_module_of_ours_keeps_its_traceback(fake: SimpleNamespace, missing: str | None) -> None:
    fake.error = ModuleNotFoundError("no module", name=missing)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["train"])


def test_a_missing_package_and_a_full_disk_are_one_line(fake: SimpleNamespace, tmp_path: Path) -> None:
    for error, expected in (
        (ModuleNotFoundError("no", name="soxr"), "Python module soxr is missing from "),
        (OSError(errno.ENOSPC, "full", str(tmp_path / "model.pth")), f"no space left at {tmp_path}"),
    ):
        fake.error = error
        with pytest.raises(SystemExit, match=f"^espnet-kd: error: {expected}"):
            cli.main(["train"])


def test_a_full_directory_of_temporary_files_is_named(
    fake: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    free = {tmp_path: 4096}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free.get(path, 1 << 30)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fake.error = OSError(errno.ENOSPC, "No space left")  # where is not known
    with pytest.raises(SystemExit, match=f"^espnet-kd: error: no space left at {tmp_path}: 0.0 MB are free"):
        cli.main(["train"])
    fake.error.filename = "model.pth"
    free.clear()
    with pytest.raises(SystemExit, match="^espnet-kd: error: no space left at .: 1073.7 MB are free, so"):
        cli.main(["train"])


@pytest.mark.parametrize(("words", "value"), [(["--debug"], ""), ([], "1"), (["--debug"], "0")])
def test_a_users_mistake_shows_its_traceback_on_request(
    fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, words: list[str], value: str
) -> None:
    monkeypatch.setenv("ESPNET_KD_DEBUG", value)
    fake.error = UserError("wrong")
    with pytest.raises(UserError):
        cli.main([*words, "train"])
    assert os.environ["ESPNET_KD_DEBUG"] == "1"  # for the processes that a command starts


def test_debug_shows_where_the_error_arises(tmp_path: Path) -> None:
    command = ("merge", str(tmp_path / "missing.yaml"))
    plain, debug = espnet_kd(*command), espnet_kd("--debug", *command)
    assert plain.returncode == debug.returncode == 1
    assert plain.stderr.count("\n") == 1 and "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr and "config.py" in debug.stderr
    assert "UserError: the configuration" in debug.stderr.splitlines()[-1]


def test_debug_goes_before_a_stock_command_too(
    fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPNET_KD_DEBUG", "")
    cli.main(["--debug", "-m", "espnet2.bin.asr_train", "--config", "a.yaml"])
    assert fake.argv == ["--task", "asr", "--config", "a.yaml"]


def test_the_old_name_of_the_variable_is_refused(
    fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPNET_KD_TRACEBACK", "1")
    with pytest.raises(SystemExit, match="ESPNET_KD_TRACEBACK is called ESPNET_KD_DEBUG now"):
        cli.main(["train"])


def test_stock_training_becomes_ours(fake: SimpleNamespace) -> None:
    cli.main(["-m", "espnet2.bin.asr_train", "--config", "a.yaml"])
    assert fake.argv == ["--task", "asr", "--config", "a.yaml"]


def test_any_other_module_runs_as_with_python() -> None:
    result = espnet_kd("-m", "platform")
    assert (result.returncode, result.stdout.strip()) == (0, platform.platform())


def test_a_script_runs_as_with_python_and_keeps_its_exit_status(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(sys.argv[1:])\nsys.exit(7)\n")
    result = espnet_kd(str(script), "-m", "a b")
    assert (result.returncode, result.stdout) == (7, "['-m', 'a b']\n")


def test_code_on_the_command_line_runs_as_with_python() -> None:
    result = espnet_kd("-c", "print(6 * 7)")
    assert (result.returncode, result.stdout) == (0, "42\n")
