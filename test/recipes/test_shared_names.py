"""The files that kd.sh sources declare which names they share with it."""

import re

import pytest
from shell import TEMPLATE

NAME = "[a-z][a-z_]*"
SOURCED = ("files.sh", "steps.sh", "unlabelled.sh")


def declared(text: str, key: str) -> set[str]:
    """The names that the head of a file lists after ``# KEY:``."""
    line = re.search(rf"^# {key}: (.*)$", text.replace("\n#   ", " "), re.MULTILINE)
    return set(line[1].split()) - {"none"} if line else set()


def code_of(text: str) -> str:
    """The text without comments that fill a line."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def assigned(code: str) -> set[str]:
    """Names that are assigned anywhere."""
    return (
        set(re.findall(rf"(?:^|[\s;(])({NAME})\+?=", code, re.MULTILINE))
        | set(re.findall(rf"read -ra ({NAME})", code))
        | set(re.findall(rf"for \(?\(?({NAME})", code))
    )


def used(code: str) -> set[str]:
    """Names that are read."""
    return set(re.findall(rf"\$\{{[#!]?({NAME})", code))


def local(code: str) -> set[str]:
    """Names of functions' own variables and of loops."""
    found = set(re.findall(rf"\bfor ({NAME})(?: in|;)", code))
    found |= set(re.findall(rf"declare -n ({NAME})=", code))
    for words in re.findall(r"^\s+local (.*)$", code, re.MULTILINE):
        plain = re.sub(r"=(\$?\{[^}]*\}\S*|\([^)]*\)|'[^']*'|\S+)", "=", words)
        found |= set(re.findall(rf"(?:^|\s)({NAME})(?==|\s|$)", plain))
    return found


@pytest.mark.parametrize("name", SOURCED)
def test_a_sourced_file_declares_what_it_reads(name: str) -> None:
    text = (TEMPLATE / "utils" / name).read_text()
    code, reads = code_of(text), declared(text, "Reads")
    free = used(code) - (local(code) - reads) - declared(text, "Sets")
    assert sorted(free) == sorted(reads)


def test_what_a_sourced_file_reads_is_set_somewhere() -> None:
    paths = [TEMPLATE / name for name in ("kd.sh", "path.sh", "cmd.sh")]
    given = assigned("\n".join(code_of(path.read_text()) for path in paths))
    for name in SOURCED:
        assert not declared((TEMPLATE / "utils" / name).read_text(), "Reads") - given


def test_a_name_that_is_not_declared_is_found() -> None:
    code = "f() {\n    local a=$1 b=${x}\n    for c in ${y}; do echo ${a} ${b} ${c} ${z}; done\n}"
    assert used(code) - local(code) == {"x", "y", "z"}
