"""Tables that are read and written row by row."""

import resource
import tempfile
import tracemalloc
from pathlib import Path

import pytest

from espnet_kd.data import tables
from espnet_kd.data.tables import (
    Lookup,
    SortedTable,
    check_same_keys,
    join,
    sort_lines,
    spk2utt_rows,
    unshared_keys,
    write_columns,
)
from espnet_kd.errors import UserError


def table(path: Path, content: str) -> SortedTable:
    path.write_text(content, encoding="utf-8")
    return SortedTable(path)


@pytest.fixture(params=["in memory", "on disk"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lines are sorted."""
    monkeypatch.setattr(tables, "IN_MEMORY", 2 if request.param == "on disk" else 100)


def test_rows_come_in_the_order_of_bytes(tmp_path: Path, place: None) -> None:
    found = table(tmp_path / "t", "\ufeffb 2  3 \na\nB\t1\nÄ x\nz \u2028\na-1 y\n")
    assert list(found) == [("B", "1"), ("a", ""), ("a-1", "y"), ("b", "2  3"), ("z", ""), ("Ä", "x")]
    assert list(found) == list(found) and len(found) == 6
    assert list(found.ids()) == ["B", "a", "a-1", "b", "z", "Ä"]


def test_a_full_directory_of_temporary_files_is_named_and_left_clean(
    tmp_path: Path, place: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    content = "".join(f"{key} {'word ' * 2000}\n" for key in "ba")
    full = f"^sorting in {tmp_path}/tmp failed: make room, or set TMPDIR to another directory$"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "t").write_text(content)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(UserError, match=full):
            SortedTable(tmp_path / "t")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(UserError, match="t:3: b occurs a second time") as error:  # keeps the traceback
        table(tmp_path / "t", "b\na\nb\n")
    assert not list((tmp_path / "tmp").iterdir()), error


def test_a_sorted_copy_stays_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("b 1\na 2\n")
    assert list(SortedTable(tmp_path / "t").values()) == ["2", "1"]


def test_a_repeated_key_is_named_with_its_line(tmp_path: Path, place: None) -> None:
    for content, line in (("a 1\na 2\n", 2), ("b 1\na 1\nc 1\nb 2\n", 4)):
        with pytest.raises(UserError, match=rf"t:{line}: . occurs a second time$"):
            table(tmp_path / "t", content)


def test_lines_are_sorted_like_their_keys(place: None) -> None:
    # a space is before every other character of a line, so a key is before a longer one
    assert list(sort_lines(["a-b 1", "a 9", "a\u00e9 1", "A 1"])) == ["A 1", "a 9", "a-b 1", "a\u00e9 1"]


def test_sorting_without_room_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "IN_MEMORY", 1)
    monkeypatch.setattr(tables, "SORT_MEMORY", "nonsense")
    with pytest.raises(UserError, match="sorting in .* failed: make room, or set TMPDIR"):
        list(sort_lines(["b", "a"]))


def test_tables_are_joined_and_their_differences_counted(tmp_path: Path) -> None:
    one, two = table(tmp_path / "one", "a 1\nb 2\n"), table(tmp_path / "two", "b y\na x\n")
    assert list(join(tmp_path, {"one": one, "two": two})) == [("a", ("1", "x")), ("b", ("2", "y"))]
    three = table(tmp_path / "three", "b y\nc z\n")
    with pytest.raises(UserError, match=r"a is in one but not in three \(2 ids differ\)$"):
        list(join(tmp_path, {"one": one, "two": two, "three": three}))
    with pytest.raises(UserError, match="c is in three but not in two"):
        check_same_keys(tmp_path, {"two": ["b"], "three": ["b", "c"]})
    assert list(unshared_keys(["a", "b", "d"], ["b", "c"])) == [("a", 0), ("c", 1), ("d", 0)]


def test_values_are_looked_up_in_order() -> None:
    found = Lookup([("b", "1"), ("d", "2")])
    assert [found.get(key) for key in "abbcde"] == [None, "1", "1", None, "2", None]
    assert Lookup([]).get("a") is None


def test_speakers_may_be_in_another_order_than_utterances(tmp_path: Path, place: None) -> None:
    speakers = table(tmp_path / "utt2spk", "u1 b\nu2 a\nu3 b\nu4 a-1\n")
    assert list(spk2utt_rows(speakers)) == [("a", "u2"), ("a-1", "u4"), ("b", "u1 u3")]


def test_rows_are_not_kept_in_memory(tmp_path: Path) -> None:
    lines = "".join(f"speaker-{i:08d} {'word ' * 20}\n" for i in range(30_000))  # 3.5 MB
    source = {name: table(tmp_path / name, lines) for name in ("one", "two")}
    (tmp_path / "out").mkdir()
    del lines
    tracemalloc.start()
    try:
        assert write_columns(tmp_path / "out", ["a", "b"], join(tmp_path, source)) == 30_000
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out/b").read_text() == "".join(f"{k} {v}\n" for k, v in source["two"])
