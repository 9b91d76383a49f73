"""Merging configurations."""

from pathlib import Path

import pytest
import yaml

from espnet_kd.config import main, merge, merge_files
from espnet_kd.errors import UserError


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
