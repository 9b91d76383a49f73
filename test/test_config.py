"""Configurations are read strictly, in bounded time and memory, and merged."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from espnet_kd import config
from espnet_kd.__main__ import stand_in
from espnet_kd.config import as_number, main, merge, merge_files, parse_yaml, read_config, with_numbers
from espnet_kd.errors import UserError
from espnet_kd.tasks import train

DOUBLED = 60  # 2^60 values
LEVELS = "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, DOUBLED))
MERGES = "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, DOUBLED))


@pytest.fixture(params=["C", "Python"])
def parse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
    """The reader on either of PyYAML's parsers."""
    if request.param == "Python":
        monkeypatch.setattr(config, "_Loader", yaml.SafeLoader)
    return lambda text: parse_yaml(text, "f.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1,\n c: 2}", r"f.yaml:3: the key c occurs a second time"),
        ("criteria:\n  ctc: {weight: 1}\n  'ctc': {type: kl}", r"f.yaml:3: the key ctc occurs a second time"),
        ("1: a\n1.0: b", r"f.yaml:2: the key 1.0 occurs a second time"),
        ("- [{x: 1, x: 1}]", r"f.yaml:1: the key x occurs"),
        (f"a0: &a0 [x, x]\n{LEVELS}", r"f.yaml:20: aliases of aliases, which are too large"),
        (f"a0: &a0 {{x: 1}}\n{MERGES}", r"f.yaml:19: aliases of aliases, which are too large"),
        (f"a: &a {'y' * 10000}\nb: [{'*a, ' * 1000}]", r"f.yaml:1: aliases of aliases"),
        ("a: &a [*a]", r"f.yaml:1: it contains itself"),
        ("[" * 200 + "]" * 200, r"f.yaml.* nested more than 100 levels deep"),
        ("[" * 9000 + "]" * 9000, r"f.yaml.*(nest|deep)"),
        ("[" + "[]," * 600_001 + "]", r"f.yaml has more than 600000 values"),
        ("a: " + "y" * (5 << 20), r"f.yaml has more than 4 MiB"),
        ("a:\nb: 1" + ":1" * 10000, r"f.yaml:2: a number of 20002 characters"),
        ("a: " + "1" * 5000, r"f.yaml:1: a number of 5001 characters"),
        ("a: 2001-99-99", r"f.yaml:1: '2001-99-99' is not a valid timestamp"),
        ("a:\nb: !!int x", r"f.yaml:2: 'x' is not a valid int"),
        ("a: !!bool x", r"f.yaml:1: 'x' is not a valid bool"),
        ("a: 1\nb: \x01", r"f.yaml:2: not YAML: unacceptable character"),
        ("a: !!python/object/apply:os.getcwd []", r"f.yaml:1: not YAML: "),
        ("a: 1\n---\nb: 2", r"f.yaml:2: not YAML: "),
    ],
)
def test_what_is_no_configuration_is_refused_at_once_in_one_line(
    parse: Callable[[str], object], text: str, message: str, request: pytest.FixtureRequest
) -> None:
    if len(text) > 1 << 20 and "Python" in request.node.name:
        pytest.skip("the parser in Python needs a minute")
    began = time.process_time()
    with pytest.raises(UserError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert time.process_time() - began < 30


def test_aliases_and_merges_of_ordinary_size_are_read(parse: Callable[[str], object]) -> None:
    text = "x: &x {a: 1}\ny: {<<: *x, a: 2}\nz: {<<: *x, b: 3}\nw: [*x, *x]"
    assert parse(text) == {"x": {"a": 1}, "y": {"a": 2}, "z": {"a": 1, "b": 3}, "w": [{"a": 1}, {"a": 1}]}


def test_tokens_that_look_like_something_else_come_back(parse: Callable[[str], object]) -> None:
    tokens = ["<blank>", "null", "true", "1e5", "1e-1", "=", "<<", "~", "1:20", "2001-01-01", "*a", "&b"]
    assert parse(yaml.safe_dump({"token_list": tokens})) == {"token_list": tokens}


def test_the_largest_token_list_is_read() -> None:
    tokens = [f"▁token{i}" for i in range(60_000)]
    text = yaml.dump({"token_list": tokens}, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
    assert parse_yaml(text) == {"token_list": tokens}


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("1e-1", 0.1),
        ("-1E3", -1000.0),
        (".5e+1", 5.0),
        ("1.e2", 100.0),
        ("1e", "1e"),
        ("e5", "e5"),
        ("10", "10"),
        ("nan", "nan"),
        (True, True),
        (None, None),
        (3, 3),
    ],
)
def test_a_text_that_is_a_number_to_everyone_but_yaml_becomes_one(value: object, number: object) -> None:
    assert as_number(value) == number
    assert with_numbers({"a": [value, {"b": value}]}) == {"a": [number, {"b": number}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"the configuration .*c.yaml does not exist"),
        (b"- 1\n", r"c.yaml holds a list, not `key: value` lines"),
        (b"a: \xff\n", r"c.yaml: not YAML: it is not UTF-8"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_config(path)


def test_a_directory_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read: Is a directory"):
        read_config(tmp_path)


def test_training_refuses_a_criterion_of_a_name_that_occurs_twice(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("criteria:\n    ctc: {type: kl, tap: ctc.ctc_lo}\n    ctc: {type: kl, tap: decoder}\n")
    with pytest.raises(UserError, match=r"c.yaml:3: the key ctc occurs a second time"):
        train.main(["--config", str(path)])


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert read_config(tmp_path / "c.yaml") == {}


def test_decoding_refuses_a_key_that_occurs_twice(tmp_path: Path) -> None:
    path = tmp_path / "decode.yaml"
    path.write_text("beam_size: 1\nbeam_size: 20\n")
    for words in (["--config", str(path)], [f"--config={path}", "--ngpu", "0"]):
        with pytest.raises(SystemExit, match=r"decode.yaml:2: the key beam_size occurs a second time"):
            stand_in(["-m", "espnet2.bin.asr_inference", *words])


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        (
            {"conf": {"x": 1, "y": {"z": 1}}},
            {"conf": {"y": {"w": 2}}},
            {"conf": {"x": 1, "y": {"z": 1, "w": 2}}},
        ),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"x": 1}}, {"a": None}, {"a": None}),
        ({"a": 1}, {"a": {"x": 1}}, {"a": {"x": 1}}),
    ],
)
def test_later_values_win_key_by_key(base: dict, over: dict, merged: dict) -> None:
    before = yaml.safe_dump([base, over])
    assert merge(base, over) == merged
    assert yaml.safe_dump([base, over]) == before


def test_files_are_merged_in_order_and_keep_the_order_of_their_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ("z: 1\na: ü\n", "a: 2\n", "# nothing\n")
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(text, encoding="utf-8")
    main([*map(str, paths), "--out", str(tmp_path / "new" / "out.yaml")])
    assert (tmp_path / "new" / "out.yaml").read_text() == "z: 1\na: 2\n"
    main([str(paths[0])])
    assert capsys.readouterr().out == "z: 1\na: ü\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1\n", r"bad.yaml:3: not YAML: "),
        ("- 1\n", r"bad.yaml holds a list, not `key: value` lines"),
        ("a: !!python/object/apply:os.getcwd []\n", r"bad.yaml:1: not YAML: "),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        merge_files([tmp_path / "bad.yaml"])
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no.yaml does not exist"):
        merge_files([tmp_path / "no.yaml"])
