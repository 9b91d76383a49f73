"""The files that kd.sh sources declare in their heads which variables they read and which they set."""

import re

import pytest
from shell import TEMPLATE

NAME = "[a-z][a-z0-9_]*"  # upper case is the environment's and bash's own
NAMES = (
    "tokens", "files", "training", "language_model", "decoding", "unlabelled", "generations", "dry_run",
)  # fmt: skip
FUNCTIONS = tuple(f"utils/{name}.sh" for name in NAMES)
SOURCED = (*FUNCTIONS, "utils/parse_options.sh", "path.sh", "cmd.sh")


def text_of(name: str) -> str:
    return (TEMPLATE / name).read_text()


def declared(text: str, key: str) -> set[str]:
    """Return the names that the head of a file lists after ``# KEY:``."""
    line = re.search(rf"^# {key}: (.*)$", text.replace("\n#   ", " "), re.MULTILINE)
    assert line, f"the head has no line '# {key}: ...'"
    return set(line[1].partition(", and ")[0].split()) - {"none"}


def code_of(text: str) -> str:
    """Return the text without lines that are comments."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def parts(code: str) -> list[str]:
    """Return each function by itself, and last the code outside of functions."""
    function = r"^\w+\(\) (?:\{.*\}|\{$.*?^\})"
    outside = re.sub(function, "", code, flags=re.MULTILINE | re.DOTALL)
    return [*re.findall(function, code, re.MULTILINE | re.DOTALL), outside]


def assigned(code: str) -> set[str]:
    """Return the names that are assigned anywhere."""
    return (
        set(re.findall(rf"(?:^\s*|[;{{|&)] |then )({NAME})(?:\[[^\]]*\])?\+?=", code, re.MULTILINE))
        | set(re.findall(rf"(?:read -ra|read -r|mapfile -t) ({NAME})", code))
        | {a or b for a, b in re.findall(rf"\bfor (?:\(\(({NAME}) =|({NAME})(?: in|;))", code)}
    )


def used(code: str) -> set[str]:
    """Return the names that are read."""
    return set(re.findall(rf"\$\{{[#!]?({NAME})", code))


def local(code: str) -> set[str]:
    """Return the names of functions' own variables and of variables that the caller names."""
    found = set(re.findall(rf"declare -n ({NAME})=", code))
    for words in re.findall(r"^\s+local (.*)$", code, re.MULTILINE):
        plain = re.sub(r"=(\$?\{[^}]*\}\S*|\([^)]*\)|'[^']*'|\S+)", "=", words)
        found |= set(re.findall(rf"(?:^|\s)({NAME})(?==|\s|$)", plain))
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_file_of_functions_declares_what_it_reads(name: str) -> None:
    text = text_of(name)
    code, reads = code_of(text), declared(text, "Reads")
    free = used(code) - (local(code) - reads) - declared(text, "Sets")
    assert sorted(free) == sorted(reads)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_set_only_their_own_variables_and_what_their_file_declares(name: str) -> None:
    text = text_of(name)
    shared = set().union(*(assigned(part) - local(part) for part in parts(code_of(text))))
    shared -= {"python"}  # python=... in front of a command
    assert sorted(shared) == sorted(declared(text, "Sets"))


def test_what_a_sourced_file_reads_is_set_in_one_of_the_others() -> None:
    files = ("kd.sh", "utils/options.sh", "path.sh", "cmd.sh")
    given = assigned("\n".join(code_of(text_of(name)) for name in files))
    given |= {"cmd_backend", "KALDI_ROOT", "ESPNET_ROOT"}  # of the environment
    given |= {"option_is_list"}  # of parse_options.sh
    given |= declared(text_of("utils/language_model.sh"), "Sets")
    given |= declared(text_of("utils/tokens.sh"), "Sets")
    for name in SOURCED:
        assert declared(text_of(name), "Reads") <= given


def test_a_name_that_is_not_declared_is_found() -> None:
    code = "f() {\n    local a=$1 b=${x}\n    for c in ${y}; do echo ${a} ${b} ${z}; done\n    d+=(1)\n}\n"
    code += "e=2\n"
    assert used(code) - local(code) == {"x", "y", "z"}
    function, outside = parts(code)
    assert assigned(function) - local(function) == {"c", "d"} and assigned(outside) == {"e"}
