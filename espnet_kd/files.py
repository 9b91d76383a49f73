"""Files that are either whole or absent, and Kaldi tables."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from espnet_kd.errors import UserError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the final name only if the block succeeds.

    Raises:
        UserError: the directory cannot be written.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Like ``atomic_path`` for a directory; a directory that already has the name is replaced.

    Raises:
        UserError: it cannot be written, or what has the name is none.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    temporary.unlink()
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            if not path.is_dir():
                raise UserError(f"{path} is in the way: a directory of that name is to be written")
            shutil.rmtree(path)
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(directory: Path, busy: str) -> Iterator[None]:
    """Make a directory and hold it, by a lock on ``.lock`` in it, for this process alone.

    Raises:
        UserError: it cannot be written, or another process holds it; the message is ``busy``.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot write {directory}: {e.strerror}") from None
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        yield


def read_table(path: str | Path) -> dict[str, str]:
    """Read a Kaldi table, one ``key value...`` a line; a key alone has the value "".

    Raises:
        UserError: the file is missing or not UTF-8, or a key is empty or repeated.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text: {e}") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from None
    table: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line and number == len(lines):
            break
        key, _, value = line.rstrip("\r").partition(" ")
        if not key:
            raise UserError(f"{path}:{number}: the line does not start with a key")
        if key in table:
            raise UserError(f"{path}:{number}: {key} occurs a second time")
        table[key] = value.strip()
    return table


def table_files(path: str | Path) -> list[Path]:
    """The files of a table: itself, or, where ESPnet's split_scps made a directory of it, the parts."""
    path = Path(path)
    return sorted(path.glob("split.*")) if path.is_dir() else [path]


def write_table(path: str | Path, table: Mapping[str, object]) -> None:
    """Write a Kaldi table sorted by key, atomically."""
    with atomic_path(path) as temporary:
        lines = (f"{key} {table[key]}".rstrip() for key in sorted(table))
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def fsync(*paths: Path) -> None:
    """Bring files to the disk, whatever happens to the machine."""
    for path in paths:
        with path.open("rb") as f:
            os.fsync(f.fileno())


def fingerprint(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None


def _temporary_beside(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror}") from None
    os.close(handle)
    os.chmod(name, 0o666 & ~_umask())
    return Path(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
