"""Unpacking archives that come from elsewhere."""

import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from espnet_kd.errors import UserError
from espnet_kd.files import locked

BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError)


def extract(archive: str | Path, dst: str | Path) -> None:
    """Unpack a tar (plain, gz, bz2, xz) or zip archive as directory ``dst``, whole or not at all.

    Raises:
        UserError: it is no archive, is damaged, or has a member that would land outside ``dst``.
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
        except OSError as e:
            if e.errno is not None:
                raise UserError(f"{archive} cannot be unpacked as {dst}: {e.strerror}") from None
            raise _broken(archive, e) from None  # gzip's own
        except BROKEN as e:
            raise _broken(archive, e) from None


@contextmanager
def _workspace(dst: Path) -> Iterator[Path]:
    """A directory that takes the name ``dst`` at the end; what a killed process left of one is removed."""
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
    return UserError(f"{archive} is damaged or no archive ({reason}): delete it and get it again")


def _starts_as_zip(archive: Path) -> bool:
    with archive.open("rb") as f:
        return f.read(4) == b"PK\3\4"


def _extract_tar(archive: Path, dst: Path) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for m in members:
            _check(archive, m.name, m.name)
            if m.issym():  # relative to the link's own directory; a hard link is relative to the root
                _check(archive, m.name, str(PurePosixPath(m.name).parent / m.linkname))
            elif m.islnk():
                _check(archive, m.name, m.linkname)
            elif not (m.isreg() or m.isdir()):
                raise UserError(f"{archive}: member {m.name!r} is a device or pipe: nothing was unpacked")
        tar.extractall(dst, members, filter="data")


def _extract_zip(archive: Path, dst: Path) -> None:
    with zipfile.ZipFile(archive) as z:
        for name in z.namelist():
            _check(archive, name, name)
        z.extractall(dst)  # checks every CRC; writes links as plain files


def _check(archive: Path, member: str, path: str) -> None:
    """Refuse a member one of whose paths is absolute or climbs above the root on its way."""
    depth = 0
    for part in PurePosixPath(path).parts:
        depth += {"..": -1, ".": 0}.get(part, 1)
        if part.startswith("/") or "\\" in part or depth < 0:
            raise UserError(f"{archive}: member {member!r} leads outside the archive: nothing was unpacked")
