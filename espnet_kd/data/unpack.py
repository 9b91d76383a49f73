"""Unpack archives from untrusted sources."""

import bz2
import gzip
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from espnet_kd.errors import UserError
from espnet_kd.files import locked

BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
    EOFError, RuntimeError, ValueError, LookupError, OverflowError,
)  # fmt: skip
MAGIC: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open, b"]\0\0": lzma.open,
}  # fmt: skip
# Speech hardly compresses and transcripts compress tenfold, but gzip can compress zeros a thousandfold.
LARGEST_RATIO, ALLOWED = 50, 10_000_000  # limit of unpacked bytes: ratio * size of the archive + allowance
HEADER = 512  # bytes that every member of a tar takes
LONGEST_HEADER = 1 << 16  # bytes; tarfile reads an extended header of any length into memory
LONGEST_PATH = 4096  # PATH_MAX of Linux


def extract(archive: str | Path, dst: str | Path) -> None:
    """Unpack a tar (plain, gz, bz2, xz) or zip archive as the directory ``dst``, completely or not at all.

    Raises:
        UserError: the file is not an archive or is damaged, would become far larger than an archive of speech
            does, or has a member that would be written outside ``dst`` or through a link.
    """
    archive, dst = Path(archive), Path(dst)
    if not archive.is_file():
        raise UserError(f"{archive} is not a file")
    with _workspace(dst) as tmp:
        try:
            if _starts_as_zip(archive):
                _extract_zip(archive, tmp)
            else:
                _extract_tar(archive, tmp)
        except UserError:
            raise
        except OSError as e:
            if e.errno is not None:
                raise UserError(f"{archive} cannot be unpacked as {dst}: {e.strerror}") from None
            raise _broken(archive, e) from None  # raised by gzip, without a system error
        except BROKEN as e:
            raise _broken(archive, e) from None


@contextmanager
def _workspace(dst: Path) -> Iterator[Path]:
    """Yield a temporary directory that is renamed to ``dst`` at the end.

    What a killed process has left of an earlier one is removed.
    """
    work = dst.with_name(f".{dst.name}.unpacking")
    with locked(work, f"{dst} is being unpacked by another process: wait for it"):
        try:
            shutil.rmtree(work / "data", ignore_errors=True)
            (work / "data").mkdir()
            yield work / "data"
            if dst.exists():
                shutil.rmtree(dst)
            os.rename(work / "data", dst)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _broken(archive: Path, error: Exception) -> UserError:
    reason = str(error) or type(error).__name__
    return UserError(f"{archive} is damaged or not an archive ({reason}): delete it and download it again")


def _starts_as_zip(archive: Path) -> bool:
    with archive.open("rb") as f:
        return f.read(4) == b"PK\3\4"


class _Tar:
    """A decompressed tar file that refuses reads of more than ``LONGEST_HEADER`` bytes."""

    def __init__(self, archive: Path, file: BinaryIO) -> None:
        self._archive, self._file = archive, file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises:
            UserError: ``size`` is too large, so the header that gives it must be wrong.
        """
        if not 0 <= size <= LONGEST_HEADER:
            raise UserError(f"{self._archive} has a header of {size} bytes: nothing was unpacked")
        return self._file.read(size)


def _bounded(archive: Path, file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, _Tar(archive, file))  # has all that tarfile uses when it reads


def _extract_tar(archive: Path, dst: Path) -> None:
    with archive.open("rb") as f:
        start = f.read(6)
    decompress = next((opener for magic, opener in MAGIC.items() if start.startswith(magic)), Path.open)
    with decompress(archive, "rb") as f, tarfile.open(fileobj=_bounded(archive, f), mode="r:") as tar:
        members, size, packed = [], 0, archive.stat().st_size
        for m in tar:  # one by one: the list of members itself may be too large
            size += HEADER + (m.size if m.isreg() else 0)
            _check_size(archive, size, packed)
            if m.size < 0:
                raise tarfile.ReadError(f"member {m.name!r} has {m.size} bytes")
            members.append(m)
        _check_members(archive, members)
        # Links come last, so that no member is written through one.
        members.sort(key=lambda m: (m.issym(), m.islnk()))
        tar.extractall(dst, members, filter="data")


def _check_members(archive: Path, members: Collection[tarfile.TarInfo]) -> None:
    """Refuse members that would be written, or links that would point, outside the archive.

    Python's own filter is not enough: before 3.12.11 it did not resolve links whose path is longer than the
    system allows (CVE-2025-4517). Therefore no path may run through a link.
    """
    links = {path for m in members if m.issym() for path in _prefixes(m.name)[-1:]}
    for m in members:
        if not (m.isreg() or m.isdir() or m.issym() or m.islnk()):
            raise UserError(f"{archive}: member {m.name!r} is a device or pipe: nothing was unpacked")
        paths = [m.name]
        if m.issym():  # relative to the directory of the link; a hard link is relative to the root
            paths.append(str(PurePosixPath(m.name).parent / m.linkname))
        elif m.islnk():
            paths.append(m.linkname)
        for path in paths:
            _check_path(archive, m.name, path)
            prefixes = _prefixes(path)
            if not links.isdisjoint(prefixes[:-1] if m.issym() else prefixes):
                raise UserError(f"{archive}: member {m.name!r} runs through a link: nothing was unpacked")


def _extract_zip(archive: Path, dst: Path) -> None:
    with zipfile.ZipFile(archive) as z:
        _check_size(archive, sum(HEADER + info.file_size for info in z.infolist()), archive.stat().st_size)
        for name in z.namelist():
            _check_path(archive, name, name)
        z.extractall(dst)  # checks every CRC and stops at the size given; writes links as plain files


def _check_size(archive: Path, size: int, packed: int) -> None:
    if size > LARGEST_RATIO * packed + ALLOWED:
        raise UserError(
            f"{archive} has {packed} bytes and would become more than {LARGEST_RATIO} times as large: "
            "nothing was unpacked; if you trust it, unpack it yourself and give its directory"
        )


def _check_path(archive: Path, member: str, path: str) -> None:
    """Refuse a path that is absolute, too long, or goes above the root at any point."""
    depth = 0
    if len(path) > LONGEST_PATH:
        raise UserError(f"{archive}: member {member[:40]!r}... has too long a path: nothing was unpacked")
    for part in PurePosixPath(path).parts:
        depth += {"..": -1, ".": 0}.get(part, 1)
        if part.startswith("/") or "\\" in part or depth < 0:
            raise UserError(f"{archive}: member {member!r} leads outside the archive: nothing was unpacked")


def _prefixes(path: str) -> list[str]:
    """Return the directories along a path, and the path itself last, in lower case and without ``..``."""
    here: list[str] = []
    prefixes = []
    for part in PurePosixPath(path.casefold()).parts:
        here = here[:-1] if part == ".." else [*here, part]
        prefixes.append("/".join(here))
    return prefixes
