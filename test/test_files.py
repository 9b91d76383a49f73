"""Outputs are whole or absent; Kaldi tables are read strictly."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_kd.errors import UserError
from espnet_kd.files import (
    atomic_dir,
    atomic_path,
    point_link,
    read_json,
    read_table,
    write_if_changed,
    write_table,
)


def test_a_file_takes_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "out.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["out.txt"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_a_file_has_the_permissions_that_open_would_give(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "out") as temporary:
            temporary.touch()
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640  # 666 without 027


def test_a_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "set"
    path.mkdir()
    (path / "old").touch()
    with atomic_dir(path) as temporary:
        (temporary / "new").touch()
        assert os.listdir(path) == ["old"]
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["set"]


def test_a_failed_directory_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "set"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError), atomic_dir(path) as temporary:
        (temporary / "new").touch()
        raise RuntimeError
    assert os.listdir(path) == ["old"]
    assert os.listdir(tmp_path) == ["set"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/out: "), atomic_path(tmp_path / "file" / "out"):
        pass


def test_a_table_comes_back_as_it_was_written_and_lies_sorted(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_table(path, {"b": "two words", "a": 1, "ä": ""})
    assert path.read_bytes() == "a 1\nb two words\nä\n".encode()
    assert read_table(path) == {"a": "1", "b": "two words", "ä": ""}


@pytest.mark.parametrize("value", ["1.wav\nb 2.wav", "1\r.wav"])
def test_a_line_break_in_a_value_does_not_become_a_row(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"wav.scp: a line break in 'a 1.*\.wav': rename the file"):
        write_table(tmp_path / "wav.scp", {"a": value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "table"),
    [
        (b"", {}),
        (b"a 1", {"a": "1"}),  # no newline at the end
        (b"a 1\r\nb 2\r\n", {"a": "1", "b": "2"}),
        (b"a  1 \n", {"a": "1"}),
        (b"a\t1\nb \t 2 3\n", {"a": "1", "b": "2 3"}),  # Kaldi divides at spaces and tabs
        (b"a\t1 2\n", {"a": "1 2"}),
        (b"\xef\xbb\xbfa 1\n", {"a": "1"}),  # an editor on Windows
        ("a 1\x1c2\x852\u20282\x0c\nb 3\n".encode(), {"a": "1\x1c2\x852\u20282", "b": "3"}),  # lines of str
    ],
)
def test_harmless_variants_of_a_table_are_read(tmp_path: Path, content: bytes, table: dict[str, str]) -> None:
    (tmp_path / "text").write_bytes(content)
    assert read_table(tmp_path / "text") == table


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1\na 2\n", r"text:2: a occurs a second time"),
        (b"a 1\n b 2\n", r"text:2: the line does not start with a key"),
        (b"a 1\n\nb 2\n", r"text:2: the line does not start with a key"),
        (b"a 1\nb \xff\n", r"text is not UTF-8 text"),
        (b"a 1\n\tb 2\n", r"text:2: the line does not start with a key"),
        (b"a 1\nb\0 2\n", r"text:2: the key 'b\\x00' has a control character"),
        ("a 1\nb\u30002\n".encode(), r"text:2: the key 'b\\u30002' has .* a special space"),
    ],
)
def test_a_faulty_table_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "text")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a":\n1', "settings.json:2: not JSON: "),
        (b"[1]", "settings.json holds a list, not a JSON object"),
        (b"\xff", "settings.json is not UTF-8 text"),
        (b"[" * 100_000, "settings.json: not plain JSON: "),
        (b'{"a": %s}' % (b"9" * 5000), "settings.json: not plain JSON: "),
    ],
)
def test_json_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as e:
        read_json(tmp_path / "settings.json")
    assert "\n" not in str(e.value)


def test_a_message_does_not_command_the_terminal() -> None:
    # clear the screen, a second line, right to left; letters and joiners of any script stay
    foreign = "a\x1b[2J\nerror: \u202eb \x85\ud800 日本 o'neil é \u200d"
    assert str(UserError(foreign)) == "a\\x1b[2J\\nerror: \\u202eb \\x85\\ud800 日本 o'neil é \u200d"


def test_a_message_that_quotes_much_is_cut_in_its_middle() -> None:
    message = str(UserError(f"data/text:1: {'9' * 10_000} is no number: correct it"))
    assert len(message) == 2005 and message.startswith("data/text:1: 999")
    assert message.endswith(": correct it")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere/text does not exist"):
        read_table(tmp_path / "nowhere" / "text")


def test_a_directory_where_a_table_is_expected_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    with pytest.raises(UserError, match="text cannot be read: Is a directory"):
        read_table(tmp_path / "text")


def test_a_file_in_the_place_of_a_directory_is_kept(tmp_path: Path) -> None:
    (tmp_path / "dev").write_text("mine")
    with pytest.raises(UserError, match="dev is in the way"), atomic_dir(tmp_path / "dev"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["dev"] and (tmp_path / "dev").read_text() == "mine"


def test_what_a_killed_process_left_is_removed_but_not_what_another_writes(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    program = f"""
import sys, time
from espnet_kd.files import atomic_dir
with atomic_dir({str(tmp_path / "store")!r}) as directory:
    (directory / "part").touch()
    open({str(begun)!r}, "w")
    time.sleep(600)
"""
    others = []
    for _ in range(2):
        others.append(subprocess.Popen([sys.executable, "-c", program]))
        while not begun.exists():
            time.sleep(0.01)
        begun.unlink()
    places = sorted(tmp_path.glob(".store.*"))
    assert len(places) == 2
    for place in places:
        os.utime(place, (0, 0))
    others[0].kill()
    others[0].wait()
    with atomic_dir(tmp_path / "store"):
        assert len(list(tmp_path.glob(".store.*"))) == 2, "that of the other, and ours"
    others[1].kill()
    others[1].wait()
    assert (tmp_path / "store").is_dir() and len(list(tmp_path.glob(".store.*"))) == 1


def test_what_was_moved_aside_by_a_killed_process_is_removed(tmp_path: Path) -> None:
    """It is killed when the old directory has lost its name and the new one has not got it yet."""
    program = f"""
import os
from espnet_kd.files import atomic_dir
real = os.rename
def rename(old, new):
    real(old, new)
    if str(new).endswith(".old"):
        os.kill(os.getpid(), 9)
os.rename = rename
with atomic_dir({str(tmp_path / "store")!r}) as directory:
    (directory / "part").touch()
"""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "part").touch()
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    left = list(tmp_path.iterdir())
    assert len(left) == 2 and not (tmp_path / "store").exists()
    for place in left:
        os.utime(place, (0, 0))
    with atomic_dir(tmp_path / "store"):
        pass
    assert os.listdir(tmp_path) == ["store"]


def test_directories_written_at_once_take_the_place_whole(tmp_path: Path) -> None:
    children = []
    for number in range(4):
        pid = os.fork()
        if not pid:
            try:
                for _ in range(50):
                    with atomic_dir(tmp_path / "dir") as temporary:
                        for name in "abc":
                            (temporary / name).write_text(str(number))
                os._exit(0)
            except BaseException:  # a fork must not go on with the tests
                os._exit(1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert len({path.read_text() for path in (tmp_path / "dir").iterdir()}) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["dir"]


def test_a_full_disk_is_one_line_with_path_and_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = rf"^no space left at {tmp_path}: [\d.]+ MB are free, so a quota or limit is used up; make room"
    with pytest.raises(UserError, match=full), atomic_path(tmp_path / "x"), open("/dev/full", "w") as f:
        f.write("x")
    assert not list(tmp_path.iterdir())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4096))
    for error in (RuntimeError("unexpected pos 576 vs 534"), OSError(errno.ENOSPC, "No space left")):
        with pytest.raises(UserError, match=rf"^no space left at {tmp_path}: 0.0 MB are free; make room"):
            with atomic_dir(tmp_path / "dir"):
                raise error
    for error in (UserError("mine"), ValueError("mine"), PermissionError(errno.EACCES, "mine")):
        with pytest.raises(type(error), match="mine"), atomic_path(tmp_path / "x"):
            raise error
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 30))
    with pytest.raises(RuntimeError, match="unexpected pos"), atomic_path(tmp_path / "x"):
        raise RuntimeError("unexpected pos 576 vs 534")


def test_a_link_takes_its_place_also_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "latest.pth"
    point_link(link, "1epoch.pth")
    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", lambda new, old: None)  # what is left if the process ends before
        point_link(link, "2epoch.pth")
        assert os.readlink(link) == "1epoch.pth" and not list(tmp_path.glob("*.pth"))[1:]
    point_link(link, "3epoch.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["latest.pth"] and os.readlink(link) == "3epoch.pth"


def test_a_file_with_the_same_text_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_if_changed(path, "a: ä\n")
    os.utime(path, (1, 1))
    write_if_changed(path, "a: ä\n")
    assert path.stat().st_mtime == 1
    write_if_changed(path, "a: b\n")
    assert path.stat().st_mtime > 1 and path.read_text(encoding="utf-8") == "a: b\n"
