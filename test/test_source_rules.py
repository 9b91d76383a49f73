"""Sizes of files and functions, and calls that are not safe."""

import ast
import re
from pathlib import Path

import pytest
from source import ROOT, calls, functions, keyword, python_files, with_items

OURS = python_files("espnet_kd", "bench")
FILES = [*OURS, *python_files("test")]
LONGEST_FILE, LONGEST_FUNCTION = 450, 60
FORBIDDEN = {"eval", "exec", "os.system", "pickle.load", "pickle.loads"}
FORBIDDEN |= {"yaml.load", "yaml.unsafe_load", "yaml.safe_load"}  # espnet_kd.config has bounds


def unsafe(source: str) -> list[str]:
    """Calls that could run code from a file, go through a shell, or write outside their folder."""
    tree, found = ast.parse(source), []
    # zipfile keeps members inside the folder by itself, tarfile only when asked.
    zips = {ast.unparse(item.optional_vars) for item in with_items(tree) if "ZipFile(" in ast.unparse(item)}
    for name, call in calls(tree):
        is_unpacking = name.endswith(".extractall") and name.split(".")[0] not in zips
        wrong = (
            name in FORBIDDEN
            or (name == "torch.load" and keyword(call, "weights_only") != "True")
            or (is_unpacking and keyword(call, "filter") != "'data'")
            or keyword(call, "shell") not in (None, "False")
            or keyword(call, "allow_pickle") not in (None, "False")
        )
        if wrong:
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


def too_long(source: str) -> list[str]:
    """Functions above the limit, their docstring not counted."""
    found = []
    for function in functions(ast.parse(source)):
        length = function.end_lineno - function.lineno + 1
        if ast.get_docstring(function):
            length -= function.body[0].end_lineno - function.body[0].lineno + 1
        if length > LONGEST_FUNCTION:
            found.append(f"line {function.lineno}: {function.name} has {length} lines")
    return found


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_and_functions_are_short(file: Path) -> None:
    source = (ROOT / file).read_text()
    assert source.count("\n") <= LONGEST_FILE
    assert not too_long(source)


@pytest.mark.parametrize("file", OURS, ids=str)
def test_nothing_runs_code_from_a_file_or_a_shell(file: Path) -> None:
    assert not unsafe((ROOT / file).read_text())


@pytest.mark.parametrize("file", OURS, ids=str)
def test_nothing_is_left_to_do_and_no_machine_is_named(file: Path) -> None:
    source = (ROOT / file).read_text()
    assert not re.findall(r"\b(?:TODO|FIXME|XXX)\b|[\"' ]/(?:home|root|work|tmp|mnt)/", source)


@pytest.mark.parametrize(
    "source",
    [
        "yaml.load(f)",
        "yaml.safe_load(f)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "subprocess.run(command, shell=True)",
        "numpy.load(path, allow_pickle=True)",
        "archive.extractall(folder)",
        "x = eval(text)",
    ],
)
def test_an_unsafe_call_is_found(source: str) -> None:
    assert len(unsafe(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(p, weights_only=True)",
        "model.eval()",
        "tar.extractall(d, filter='data')",
        "with zipfile.ZipFile(p) as z:\n    z.extractall(d)",
    ],
)
def test_a_safe_call_is_left_alone(source: str) -> None:
    assert not unsafe(source)


def test_a_long_function_is_found_and_its_docstring_is_free() -> None:
    body = "    x = 1\n" * LONGEST_FUNCTION  # with its first line one too many
    assert too_long(f"def f():\n{body}") == ["line 1: f has 61 lines"]
    assert not too_long('def f():\n    """\n\n    """\n' + "    x = 1\n" * (LONGEST_FUNCTION - 1))
