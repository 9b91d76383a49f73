import fcntl
import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from espnet_kd.data.unpack import extract
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


def chain_of_long_links(tmp_path: Path) -> Path:
    """CVE-2025-4517: links whose real path is longer than PATH_MAX, then a way out, then a member over it."""
    members, here, steps = [], "", "abcdefghijklmnop"
    for step in steps:
        members += [member(f"{here}{'d' * 247}", kind=tarfile.DIRTYPE)]
        members += [member(here + step, kind=tarfile.SYMTYPE, link="d" * 247)]
        here += "d" * 247 + "/"
    end = "/".join(steps) + "/" + "l" * 254
    members += [member(end, kind=tarfile.SYMTYPE, link="../" * len(steps))]
    members += [member("escape", kind=tarfile.SYMTYPE, link=f"{end}/../../..")]
    members += [member("evil", kind=tarfile.LNKTYPE, link="escape/victim"), member("evil")]
    return write_tar(tmp_path / "a", *members)


def test_a_chain_of_long_links_writes_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    with pytest.raises(UserError, match="member '.*' runs through a link: nothing was unpacked"):
        extract(chain_of_long_links(tmp_path), tmp_path / "downloads" / "out")
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "downloads" / "out").exists()


@pytest.mark.parametrize(
    "through",
    [
        [member("l/f")],
        [member("l/../f")],  # of the link's target, not of the link
        [member("L/f")],  # the same on a disk that takes upper and lower case for one
        [member("l")],  # the file over the link
        [member("h", kind=tarfile.LNKTYPE, link="l")],  # relative to another directory it leads elsewhere
        [member("h", kind=tarfile.LNKTYPE, link="l/f")],
        [member("m", kind=tarfile.SYMTYPE, link="l/f")],
        [member("m", kind=tarfile.SYMTYPE, link="l/../f")],
    ],
    ids=lambda m: f"{m[0].name} {m[0].linkname}".strip(),
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_member_that_passes_a_link_is_refused(
    tmp_path: Path, through: list[tarfile.TarInfo], order: int
) -> None:
    members = [member("d/e/f"), member("l", kind=tarfile.SYMTYPE, link="d/e"), *through]
    with pytest.raises(UserError, match="runs through a link"):
        extract(write_tar(tmp_path / "a", *members[::order]), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_links_that_stay_inside_are_kept(tmp_path: Path) -> None:
    links = [member("d/l", kind=tarfile.SYMTYPE, link="../f"), member("m", kind=tarfile.SYMTYPE, link="d/l")]
    archive = write_tar(tmp_path / "a", *links, member("h", kind=tarfile.LNKTYPE, link="f"), member("f"))
    extract(archive, tmp_path / "out")
    assert [(tmp_path / "out" / name).read_text() for name in ("d/l", "m", "h")] == ["xxx"] * 3


def bomb(path: Path, kind: str) -> Path:
    """20 MB, or what claims it, in a few thousand bytes."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr("zeros", bytes(20_000_000))
        return path
    if kind == "headers":  # 25,000 of 512 bytes each
        path.write_bytes(gzip.compress(member("f", 0).tobuf() * 25_000))
        return path
    if kind == "header":  # of 20 MB
        name = member("././@LongLink", 20_000_000, tarfile.GNUTYPE_LONGNAME)
        name.size = 20_000_000
        return write_tar(path, name, member("f"))
    if kind == "sparse":  # a file of 2 ** 33 bytes with 512 on the disk
        holes = member("f", 512)
        holes.pax_headers = {"GNU.sparse.size": str(1 << 33), "GNU.sparse.map": f"{(1 << 33) - 512},512"}
        return write_tar(path, holes)
    return write_tar(path, member("zeros", 20_000_000))


@pytest.mark.parametrize("kind", ["tar", "zip", "headers", "header", "sparse"])
def test_an_archive_that_becomes_far_larger_is_refused(tmp_path: Path, kind: str) -> None:
    archive = bomb(tmp_path / "a", kind)
    assert archive.stat().st_size < 160_000
    with pytest.raises(UserError, match="a has (a header of )?[0-9]+ bytes.*: nothing was unpacked"):
        extract(archive, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_few_zeros_are_unpacked(tmp_path: Path) -> None:
    extract(write_tar(tmp_path / "a", member("f", 9_000_000)), tmp_path / "out")
    assert (tmp_path / "out" / "f").stat().st_size == 9_000_000


def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    """Python before 3.12.12 reads such an archive for ever (CVE-2025-8194)."""
    back = member("f", 0)
    data = bytearray(back.tobuf(tarfile.GNU_FORMAT))
    data[124:136] = (-512).to_bytes(12, signed=True)
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:]) + 8 * ord(" "))
    (tmp_path / "a").write_bytes(data + bytes(1024))
    with pytest.raises(UserError, match="a is damaged or not an archive"):
        extract(tmp_path / "a", tmp_path / "out")


@pytest.mark.parametrize("kept", [0.5, 0.98])
def test_a_truncated_tarball_leaves_nothing(tmp_path: Path, kept: float) -> None:
    data = write_tar(tmp_path / "a", *(member(f"f{i}", 5000 + i) for i in range(50))).read_bytes()
    (tmp_path / "a").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(UserError, match="a is damaged or not an archive .*download it again") as e:
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


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="page.html is damaged or not an archive"):
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


def test_two_processes_do_not_unpack_into_one_directory(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a", member("an4/README"))
    (tmp_path / ".out.unpacking/data").mkdir(parents=True)
    with (tmp_path / ".out.unpacking/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="out is being unpacked by another process"):
            extract(archive, tmp_path / "out")
    assert (tmp_path / ".out.unpacking/data").is_dir() and not (tmp_path / "out").exists()
