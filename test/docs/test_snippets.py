"""Every block of code in the documentation is run, or parsed by what would read it."""

import argparse
import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES, ROOT, Block, blocks, prose

from espnet_kd import __main__ as cli
from espnet_kd.command_line import COMMANDS
from espnet_kd.config import parse_yaml
from espnet_kd.errors import UserError
from espnet_kd.experiments.plan_file import read_plan
from espnet_kd.methods import registered
from espnet_kd.methods.mutual import peer_changes
from espnet_kd.parallel import parse_cluster
from espnet_kd.tasks.asr import ASRDistillationTask
from espnet_kd.teachers.options import term_options

CLASSES = 5000  # tokens of the model that a configuration is checked for
CLUSTER = {"type", "workers", "options"}
# What a recipe of ESPnet is called with; asr.sh is not in its wheel. stock_docs.sh runs these commands.
ASR_SH = """
    stage stop_stage skip_train skip_packing train_set test_sets python asr_task asr_config asr_exp asr_tag
    asr_stats_dir inference_asr_model inference_config inference_tag num_splits_asr pretrained_model
    speed_perturb_factors nbpe token_type lang
""".split()
# Commands of the blocks that are noted instead of run.
NOTE = """
note() { printf '%s\\0' "$@" >>"${notes}"; printf '\\n\\0' >>"${notes}"; }
for name in espnet-kd ./run.sh make pip; do eval "${name}() { note ${name} \\"\\$@\\"; }"; done
source() { :; }
cd() { :; }
exp=exp/asr_teacher
"""


class Parsed(Exception):
    """Raised in place of what a command does once its arguments have been understood."""


def calls(block: Block, folder: Path) -> list[list[str]]:
    """Return what a block runs of ours, as bash divides it into words."""
    notes = folder / "notes"
    notes.touch()
    subprocess.run(
        ["bash", "-c", NOTE + block.text],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "notes": str(notes)},
        check=False,
        capture_output=True,
    )
    return [line.strip("\0").split("\0") for line in notes.read_text().split("\n\0") if line.strip("\0")]


@pytest.fixture
def stop_after_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    parse_args = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser, *args: object, **options: object) -> None:
        parse_args(self, *args, **options)  # exits where it does not understand
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_a_yaml_block_is_read_and_checked_like_a_configuration(block: Block, tmp_path: Path) -> None:
    config = parse_yaml(block.text, str(block))
    file = tmp_path / "conf.yaml"
    file.write_text(block.text)
    if config.keys() <= CLUSTER:
        parse_cluster(str(file), None)
        return
    if "rows" in config:
        read_plan(file)
        return
    # It knows ESPnet's keys and ours.
    args = ASRDistillationTask.get_parser().parse_args(["--config", str(file)])
    for method in registered():
        method.check(args, CLASSES)
    if args.mutual:
        peer_changes(args.mutual)
    for term in term_options(args.criteria):
        term.build()


@pytest.mark.usefixtures("stop_after_parsing")
@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_a_shell_block_uses_commands_and_options_that_exist(block: Block, tmp_path: Path) -> None:
    found = calls(block, tmp_path)
    for program, *words in found:
        if program == "espnet-kd":
            check_command(words)
        elif program == "make":
            targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert set(words[:1]) <= set(targets), words
        elif program == "./run.sh":
            check_recipe(block, words)
    programs = re.findall(r"^(?:espnet-kd|make|\./run\.sh)(?=[ \n])", block.text, re.MULTILINE)
    assert len(found) >= len(programs), "a command was not reached"


def check_command(words: list[str]) -> None:
    name, *rest = words
    module, _, function = COMMANDS[name].module.partition(":")
    with pytest.raises(Parsed):
        getattr(importlib.import_module(module), function or "main")(rest)


def check_recipe(block: Block, words: list[str]) -> None:
    """Let the recipe that a block names in its first line parse the options; it prints them and ends."""
    place = re.match(r"# in (egs/\S+|a recipe of ESPnet)", block.text)
    if "cat >run.sh" in block.text:  # test_extending.py runs it
        return
    if block.page.name == "stock_recipes.md" or (place and place[1] == "a recipe of ESPnet"):
        assert {word[2:] for word in words if word.startswith("--")} <= set(ASR_SH), words
        return
    assert place, f"{block}: say in which recipe: `# in egs/an4/kd1`"
    result = subprocess.run(
        ["./run.sh", *words, "--help"], cwd=ROOT / place[1], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    for file in (word for word in words if re.fullmatch(r"conf/\w+\.yaml", word)):
        assert (ROOT / place[1] / file).is_file(), file


def test_sizes_of_the_quickstart_are_counted(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (line,) = re.findall(r"^espnet-kd (sizes .*)$", (ROOT / "docs/quickstart.md").read_text(), re.MULTILINE)
    monkeypatch.chdir(ROOT / "egs" / "digits" / "kd1")
    cli.main(line.split())
    assert capsys.readouterr().out.count(" M") >= 2


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_python_block_runs(block: Block) -> None:
    command = [sys.executable, "-W", "ignore", "-c", block.text]
    assert subprocess.run(command, cwd=ROOT).returncode == 0


def known_options() -> Iterator[str]:
    """Every option of every command, of kd.sh and of the recipes."""
    for module, _, function in (command.module.partition(":") for command in COMMANDS.values()):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            getattr(importlib.import_module(module), function or "main")(["--help"])
        yield from re.findall(r"--([a-z]\w*)", out.getvalue())
    for file in ROOT.glob("egs/*/kd1/*.sh"):
        yield from re.findall(r"^([a-z]\w*)=", file.read_text(), re.MULTILINE)
    for file in ROOT.glob("tools/*.sh"):
        yield from re.findall(r"--([a-z]\w*)", file.read_text())
    yield from (*ASR_SH, *vars(ASRDistillationTask.get_parser().parse_args([])))


def test_names_in_the_text_exist() -> None:
    options = set(known_options()) | {"help", "debug", "task", "no-deps", "stop-stage", "me"}
    for page in PAGES:
        inline = re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", prose(page))
        for code in inline:
            if command := re.match(r"espnet-kd ([a-z][\w-]*)", code):
                assert command[1] in COMMANDS, f"{page.name}: {code}"
            for option in re.findall(r"(?:^|[\s\"])--([a-z][\w-]*)", code):
                assert option.partition("=")[0] in options, f"{page.name}: {code}"


@pytest.mark.usefixtures("stop_after_parsing")
def test_a_wrong_option_would_be_found() -> None:
    with pytest.raises(SystemExit):
        check_command(["layers", "exp/a", "--detph", "4"])
    with pytest.raises(AssertionError, match="did you mean --student_config"):
        check_recipe(Block(ROOT, 1, "sh", "# in egs/an4/kd1\n"), ["--studnet_config", "a.yaml"])


def test_a_wrong_key_would_be_found(tmp_path: Path) -> None:
    text = json.dumps({"criteria": {"ctc": {"type": "kl", "tap": "ctc.ctc_lo", "temprature": 2.0}}})
    with pytest.raises(UserError, match="did you mean temperature"):
        test_a_yaml_block_is_read_and_checked_like_a_configuration(Block(ROOT, 1, "yaml", text), tmp_path)
