import fcntl
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from espnet_kd.corpora.archive import extract
from espnet_kd.errors import UserError


def write_tar(path: Path, *members: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, size: int = 3, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = (0 if kind != tarfile.REGTYPE else size), kind, link
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_of_every_compression(tmp_path: Path, mode: str) -> None:
    archive = write_tar(tmp_path / "a", member("an4/README"), mode=mode)
    extract(archive, tmp_path / "out")
    assert (tmp_path / "out" / "an4" / "README").read_text() == "xxx"


def test_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr("an4/README", "hello")
    extract(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out" / "an4" / "README").read_text() == "hello"


def test_a_link_within_the_archive_is_kept(tmp_path: Path) -> None:
    archive = write_tar(
        tmp_path / "a", member("a/file"), member("b/link", kind=tarfile.SYMTYPE, link="../a/file")
    )
    extract(archive, tmp_path / "out")
    assert (tmp_path / "out" / "b" / "link").read_text() == "xxx"


@pytest.mark.parametrize(
    "bad",
    [
        member("../evil"),
        member("an4/../../evil"),
        member("/etc/evil"),
        member("evil", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member("an4/evil", kind=tarfile.SYMTYPE, link="../../outside"),
        member("an4/evil", kind=tarfile.LNKTYPE, link="../outside"),
        member("evil", kind=tarfile.CHRTYPE),
        member("evil", kind=tarfile.FIFOTYPE),
    ],
    ids=lambda m: f"{m.name} {m.linkname}".strip(),
)
def test_a_dangerous_member_is_refused_and_nothing_is_unpacked(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    archive = write_tar(tmp_path / "a", member("ok"), bad)
    (tmp_path / "box").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="member '[^']*evil'.* (leads outside the archive|device or pipe)"):
        extract(archive, tmp_path / "box" / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../evil", "/evil", "a\\..\\..\\evil"])
def test_a_dangerous_zip_member_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr(name, "x")
    with pytest.raises(UserError, match="evil"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kept", [0.5, 0.98])
def test_a_truncated_tarball_leaves_nothing(tmp_path: Path, kept: float) -> None:
    data = write_tar(tmp_path / "a", *(member(f"f{i}", 5000 + i) for i in range(50))).read_bytes()
    (tmp_path / "a").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(UserError, match="a is damaged or no archive .*get it again") as e:
        extract(tmp_path / "a", tmp_path / "out")
    assert "\n" not in str(e.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_damaged_zip_leaves_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr("f", "some text")
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"some", b"same"))
    with pytest.raises(UserError, match="damaged"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_no_archive(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="page.html is damaged or no archive"):
        extract(tmp_path / "page.html", tmp_path / "out")
    with pytest.raises(UserError, match="none is not a file"):
        extract(tmp_path / "none", tmp_path / "out")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".out.unpacking/data/half"
    left.parent.mkdir(parents=True)
    left.write_text("x")
    extract(write_tar(tmp_path / "a", member("an4/README")), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["an4"]


def test_two_processes_do_not_unpack_the_same(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a", member("an4/README"))
    (tmp_path / ".out.unpacking/data").mkdir(parents=True)
    with (tmp_path / ".out.unpacking/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="out is being unpacked by another process"):
            extract(archive, tmp_path / "out")
    assert (tmp_path / ".out.unpacking/data").is_dir() and not (tmp_path / "out").exists()
