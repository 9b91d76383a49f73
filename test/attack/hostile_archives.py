"""Unpack archives that try to write or link outside their directory, or to fill the disk.

An archive may be unpacked if all its files and targets of links are in its directory. Nothing outside may
change in any case, and a refused archive must leave no files.
"""

import bz2
import functools
import gzip
import io
import lzma
import os
import random
import stat
import struct
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

from harness import Outcome
from mutate import mutate_bytes

from espnet_kd.data.unpack import extract

TRIES = 6000
LARGEST = 100_000_000  # bytes that may appear on the disk
PACK: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, bz2.compress, lzma.compress]
NAMES = ["a", "b", "a/b", "a/c", "b/a", "A", "a/./b", "d/e/f", "é", "x" * 200, "a b", "-rf", "a/b/c"]
ABSOLUTE = str(Path(tempfile.gettempdir(), "attack_x"))
OUTSIDE = [
    "..",
    "../x",
    "a/../../x",
    ABSOLUTE,
    "//x",
    "../../x",
    "a/../..",
    "./../x",
    "..\\x",
    "C:\\x",
    "/",
]
LINKS = [
    *NAMES,
    *OUTSIDE,
    ".",
    "../a",
    "../b/a",
    "a/..",
    "../" * 40 + "tmp",
    "/etc/passwd",
    "../box/out/../../x",
    "",
]


def run(seed: int, tries: int = TRIES, only: str | None = None) -> list[Outcome]:
    """Unpack the kinds of hostile archives in turn."""
    outcomes = {name: Outcome(f"archive: {name}") for name in KINDS if only in (None, name)}
    warnings.filterwarnings("ignore", "Duplicate name")
    with tempfile.TemporaryDirectory() as name:
        for number in range(tries):
            kind = list(outcomes)[number % len(outcomes)]
            root = Path(name) / str(number)
            (root / "box").mkdir(parents=True)
            (root / "secret").write_text("keep")
            (root / "archive").write_bytes(KINDS[kind](random.Random(seed * 10**6 + number), root))
            outcomes[kind].attempt(
                f"--seed {seed}, number {number}", functools.partial(unpack, root), "archive"
            )
    return list(outcomes.values())


def unpack(root: Path) -> None:
    """Unpack ``archive`` as ``box/out``."""
    out = root / "box" / "out"
    before = outside(root)
    try:
        extract(root / "archive", out)
    except ValueError:
        assert not out.exists() and not list((root / "box").iterdir()), "something is left of it"
        raise
    finally:
        assert outside(root) == before, "something outside was written"
        assert not Path(ABSOLUTE).exists()
    size = 0
    for path in out.rglob("*"):
        kind = path.lstat().st_mode
        assert stat.S_ISREG(kind) or stat.S_ISDIR(kind) or stat.S_ISLNK(kind), f"{path.name} is a device"
        if path.is_symlink():
            real = os.path.realpath(path)
            assert real == str(out) or real.startswith(f"{out}/"), f"{path.name} leads to {real}"
        else:
            size += path.lstat().st_size
            assert not kind & (stat.S_ISUID | stat.S_ISGID) or stat.S_ISDIR(kind)
    assert size <= LARGEST, f"{size} bytes"


def outside(root: Path) -> dict[str, object]:
    """Return the state of everything except ``box``."""
    paths = [p for p in sorted(root.rglob("*")) if "box" not in p.parts[len(root.parts) :]]
    paths += [Path("/etc/passwd")]
    return {
        str(p): (p.lstat().st_mode, p.lstat().st_size, p.lstat().st_mtime_ns, p.lstat().st_nlink)
        for p in paths
    }


def tar(members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar with these members, unchanged."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for info, content in members:
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    """Return the header of a member."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def random_tar(rng: random.Random, root: Path) -> bytes:
    """Make a tar of files, links, devices and directories with good and bad names."""
    kinds = [tarfile.REGTYPE] * 5 + [tarfile.SYMTYPE] * 4 + [tarfile.LNKTYPE] * 2 + [tarfile.DIRTYPE] * 2
    kinds += [tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.BLKTYPE]
    members = []
    for _ in range(rng.randint(1, 6)):
        name = rng.choice(NAMES if rng.random() < 0.8 else OUTSIDE)
        info = member(name, rng.choice(kinds), rng.choice(LINKS), rng.choice((0o644, 0o7777, 0, 0o755)))
        if rng.random() < 0.2:
            info.pax_headers = {rng.choice(("path", "linkpath", "size", "GNU.sparse.size", "mtime", "uid")):
                                rng.choice([*OUTSIDE, "99999999999", "-5", "x", "nan"])}  # fmt: skip
        members.append((info, rng.randbytes(rng.randint(0, 600))))
    form = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    return rng.choice(PACK)(tar(members, form))


def links(rng: random.Random, root: Path) -> bytes:
    """Make a tar of links that stay inside, then a file below one that another link has moved meanwhile."""
    names = ["a", "b", "c", "d"]
    members = [(member("a", tarfile.DIRTYPE, mode=0o755), b"")]
    for _ in range(rng.randint(2, 7)):
        target = "/".join(rng.choice([*names, "..", "."]) for _ in range(rng.randint(1, 4)))
        path = "/".join(rng.sample(names, rng.randint(1, 3)))
        kind = rng.choice((tarfile.SYMTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE))
        members.append((member(path, kind, target, 0o755), b""))
        members.append((member(f"{path}/{rng.choice(['..', 'x', '../x', '../../x'])}"), b"evil"))
    return rng.choice(PACK)(tar(members))


def long_links(rng: random.Random, root: Path) -> bytes:
    """Make a tar as in CVE-2025-4517: links too long to be resolved, then a path out of the directory."""
    length, steps = rng.choice((200, 247, 255)), rng.randint(10, 20)
    component, path, members = "d" * length, "", []
    for letter in "abcdefghijklmnopqrst"[:steps]:
        members.append((member(os.path.join(path, component), tarfile.DIRTYPE, mode=0o755), b""))
        members.append((member(os.path.join(path, letter), tarfile.SYMTYPE, component), b""))
        path = os.path.join(path, component if rng.random() < 0.9 else letter)
    short = "/".join("abcdefghijklmnopqrst"[:steps])
    last = os.path.join(short, "l" * 254)
    members.append((member(last, tarfile.SYMTYPE, "../" * steps), b""))
    members.append(
        (member("escape", tarfile.SYMTYPE, f"{last}/../../{rng.choice(('', '../', '../../'))}"), b"")
    )
    members.append((member("link", tarfile.LNKTYPE, "escape/secret"), b""))
    members.append((member("escape/secret"), b"overwritten"))
    members.append((member("link"), b"overwritten"))
    return rng.choice(PACK)(tar(members, tarfile.GNU_FORMAT if rng.random() < 0.5 else tarfile.PAX_FORMAT))


def damaged_tar(rng: random.Random, root: Path) -> bytes:
    """Change bytes of a tar, with or without a correct checksum."""
    members = [
        (member("a/b"), b"one" * 50),
        (member("a/l", tarfile.SYMTYPE, "b"), b""),
        (member("c" * 150), b"2"),
    ]
    data = bytearray(
        mutate_bytes(tar(members, rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))), rng, tar(members))
    )
    for place in range(0, len(data) - 511, 512):
        if rng.random() < 0.7 and data[place] and data[place + 257 : place + 262] == b"ustar":
            head = data[place : place + 512]
            head[148:156] = b" " * 8
            data[place + 148 : place + 156] = b"%06o\0 " % sum(head)
    return rng.choice(PACK)(bytes(data))


def random_zip(rng: random.Random, root: Path) -> bytes:
    """Make a zip of good and bad names, links, and equal names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for _ in range(rng.randint(1, 5)):
            info = zipfile.ZipInfo(rng.choice(NAMES if rng.random() < 0.7 else OUTSIDE) or "x")
            link = rng.random() < 0.3
            info.external_attr = (stat.S_IFLNK | 0o777 if link else rng.choice((0o644, 0o7777, 0))) << 16
            with archive.open(info, "w") as f:
                f.write(rng.choice(LINKS).encode() if link else rng.randbytes(50))
    return file.getvalue()


def damaged_zip(rng: random.Random, root: Path) -> bytes:
    """Change bytes of a zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b", "one" * 50)
        archive.writestr("c", "two")
    return mutate_bytes(file.getvalue(), rng, file.getvalue())


@functools.cache
def _zeros(megabytes: int) -> bytes:
    return gzip.compress(tar([(member("zeros"), bytes(megabytes * 1_000_000))]), 1)


def bomb(rng: random.Random, root: Path) -> bytes:
    """Make a small archive that becomes large: by zeros, by its header, or by many members."""
    kind = rng.randrange(5)
    if kind == 0:
        return _zeros(300)
    if kind == 1:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", bytes(200_000_000))
        data = bytearray(file.getvalue())
        if rng.random() < 0.5:  # the zip's directory has a small size
            place = data.rindex(b"PK\1\2")
            data[place + 24 : place + 28] = struct.pack("<I", 100)
        return bytes(data)
    if kind == 2:  # a header with a size of 8 TB
        head = bytearray(member("large").tobuf(tarfile.GNU_FORMAT))
        head[124:136] = b"\x80" + (8 * 2**40).to_bytes(11)
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return gzip.compress(bytes(head) + bytes(10240))
    if kind == 3:
        empty = member("d", tarfile.DIRTYPE, mode=0o755).tobuf()
        return gzip.compress(empty * 300_000 + bytes(1024), 1)
    long_name = member("x").tobuf()[:156] + b"L" + member("x").tobuf()[157:]
    head = bytearray(long_name)
    head[124:136] = b"%011o\0" % 2_000_000_000
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return gzip.compress(bytes(head) + bytes(100_000_000), 1)


def sometimes_bomb(rng: random.Random, root: Path) -> bytes:
    """Make a bomb in one of twenty attempts, because it takes seconds; else an archive of links."""
    return bomb(rng, root) if rng.random() < 0.05 else links(rng, root)


KINDS: dict[str, Callable[[random.Random, Path], bytes]] = {
    "tar": random_tar,
    "links": links,
    "long links": long_links,
    "damaged tar": damaged_tar,
    "zip": random_zip,
    "damaged zip": damaged_zip,
    "bombs and links": sometimes_bomb,
}
