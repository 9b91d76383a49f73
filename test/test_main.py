"""The command line: its commands, its errors, and the stand-in for python3 in a stock recipe."""

import importlib.util
import platform
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from espnet_kd import __main__ as cli
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
    monkeypatch.setitem(cli.COMMANDS, "train", ("fake_command", "a stand-in"))
    return command


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_usage_lists_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(argv)
    printed = capsys.readouterr().out
    for name, (_, text) in cli.COMMANDS.items():
        assert f"  {name} " in printed and text in printed


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_its_module(name: str) -> None:
    assert importlib.util.find_spec(cli.COMMANDS[name][0].partition(":")[0])


def test_an_unknown_command_fails_and_lists_the_known_ones() -> None:
    result = espnet_kd("scoer")
    assert result.returncode == 1
    assert result.stderr.startswith("espnet-kd: error: no command 'scoer'\nusage: ")
    assert result.stdout == ""


def test_a_command_gets_the_arguments_after_its_name(fake: SimpleNamespace) -> None:
    cli.main(["train", "--config", "a.yaml"])
    assert fake.argv == ["--config", "a.yaml"]


PRINT = """
import sys
from types import SimpleNamespace
from espnet_kd import __main__ as cli
def main(argv):
    print("line\\n" * int(argv[0]))
    sys.exit(int(argv[1]))
sys.modules["fake"] = SimpleNamespace(main=main)
cli.COMMANDS["fake"] = ("fake", "a stand-in")
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
    subprocess.run([sys.executable, "-c", program], check=True)


def test_another_broken_pipe_is_an_error(fake: SimpleNamespace) -> None:
    fake.error = BrokenPipeError
    with pytest.raises(BrokenPipeError):
        cli.main(["train"])


@pytest.mark.parametrize("error", [UserError, ValueError, FileNotFoundError])
def test_a_users_mistake_is_one_line_and_exit_status_1(fake: SimpleNamespace, error: type[Exception]) -> None:
    fake.error = error("data/test/text:3: an empty transcript")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train"])
    assert stopped.value.code == "espnet-kd: error: data/test/text:3: an empty transcript"  # text: status 1


def test_our_own_mistake_keeps_its_traceback(fake: SimpleNamespace) -> None:
    fake.error = AssertionError("ours")
    with pytest.raises(AssertionError):
        cli.main(["train"])


def test_a_users_mistake_shows_its_traceback_on_request(
    fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPNET_KD_TRACEBACK", "1")
    fake.error = UserError("wrong")
    with pytest.raises(UserError):
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
