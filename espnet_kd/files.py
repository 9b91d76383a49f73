"""Write files completely or not at all, lock directories, and read and write Kaldi tables."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from espnet_kd.errors import CONTROL, UserError

LOCK = ".lock"  # file in a locked directory
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ABANDONED = 60  # seconds of age from which a temporary directory without a lock is taken for left behind
ASIDE = ".old"  # end of the name of a directory that is replaced
QUOTA = "a quota or limit is used up"  # in the message if there is space on the disk
LITTLE = 1 << 20  # bytes; a disk with less free space counts as full


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the final name only if the block succeeds.

    Raises:
        UserError: the directory cannot be written, or ``path`` is a directory itself.
    """
    path = Path(path)
    temporary = _temporary_beside(path)
    try:
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a directory: give the name of a file")
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
    except Exception as e:
        raise space_error(e, path) or e from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all.

    Raises:
        UserError: see ``atomic_path``.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_if_changed(path: Path, text: str) -> None:
    """Do what ``write_text`` does, unless the file has this text: where a newer file would repeat work.

    Raises:
        UserError: see ``atomic_path``.
    """
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def point_link(path: Path, name: str) -> None:
    """Let a symbolic link point at a name, in one step, if it does not yet; one process at a time may.

    The link has the same temporary name each time, so that what a killed process left is used up.
    """
    if path.is_symlink() and os.readlink(path) == name:
        return
    temporary = path.with_name(f".{path.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    os.replace(temporary, path)


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Like ``atomic_path`` for a directory; a directory that already has the name is replaced.

    Raises:
        UserError: it cannot be written, or what has the name is none.
    """
    path = Path(path)
    _remove_abandoned(path)
    temporary = _temporary_beside(path, _mark())
    temporary.unlink()
    temporary.mkdir()
    lock = os.open(temporary, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield temporary
        _take_place(temporary, path)
    except Exception as e:
        raise space_error(e, path) or e from None
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


def _mark() -> str:
    """Return the end of names of temporary directories; locks of another host might not be seen here."""
    return f".{socket.gethostname()}.partial"


def _remove_abandoned(path: Path) -> None:
    """Remove temporary directories beside ``path`` of processes that were killed: nobody has locked them.

    Also what such a process has moved aside to take its place, see ``_take_place``.
    """
    name = f".{glob.escape(path.name)}.{'?' * 8}{glob.escape(_mark())}"
    for old in (*path.parent.glob(name), *path.parent.glob(name + ASIDE)):
        with suppress(OSError):  # it is locked, gone or not ours
            if old.is_dir() and time.time() - old.stat().st_mtime > ABANDONED:
                lock = os.open(old, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(old)
                finally:
                    os.close(lock)


def space_error(error: Exception, place: Path) -> UserError | None:
    """Return an error for the user if writing at ``place`` failed because its disk is full, otherwise None.

    libsndfile and PyTorch raise errors without a reason; then the free space decides.
    """
    if isinstance(error, UserError):
        return None
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        free = shutil.disk_usage(place).free
    except OSError:
        return None
    number = getattr(error, "errno", None)
    unexplained = isinstance(error, RuntimeError | OSError) and number is None
    if number in FULL or (unexplained and free < LITTLE and os.access(place, os.W_OK)):
        left = f"{free / 1e6:.1f} MB are free" + ("" if free < LITTLE else f", so {QUOTA}")
        return UserError(f"no space left at {place}: {left}; make room and repeat the command")
    return None


@contextmanager
def locked(directory: Path, busy: str) -> Iterator[None]:
    """Make a directory and lock it for this process by a lock on its file ``.lock``.

    Raises:
        UserError: it cannot be written, or another process holds it; the message is ``busy``.
    """
    with lock_file(directory / LOCK, busy):
        yield


@contextmanager
def lock_file(path: Path, busy: str) -> Iterator[None]:
    """Lock a file in the block; the empty file is kept afterwards.

    Raises:
        UserError: its directory cannot be written, or another process holds it; the message is ``busy``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as e:
        raise UserError(f"cannot write {path.parent}: {e.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        except OSError as e:  # some network file systems have no locks
            raise UserError(f"{path} cannot be locked: {e.strerror}: use another file system") from None
        yield


def read_table(path: str | Path) -> dict[str, str]:
    """Read a Kaldi table into memory; ``data/tables.py`` reads those that are too large for it.

    Raises:
        UserError: see ``iterate_rows``; or a key is repeated.
    """
    table: dict[str, str] = {}
    for number, (key, value) in enumerate(iterate_rows(path), 1):
        if key in table:
            raise repeated_key(path, number, key)
        table[sys.intern(key)] = value  # the tables of a directory share their keys
    return table


def iterate_rows(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield the rows of a Kaldi table, one ``key value...`` a line; a key alone has the value "".

    Key and value are divided by spaces or tabs.

    Raises:
        UserError: the file is missing or not UTF-8, or a key is empty or has odd characters.
    """
    with _reading(path), Path(path).open(encoding="utf-8-sig") as f:
        for number, line in enumerate(f, 1):
            key, _, value = line.partition(" ")
            if not key or not key.isprintable():  # few lines, such as keys alone, or before a tab
                key, value = _unusual_row(path, number, line.removesuffix("\n"))
            yield key, value.strip()


def _unusual_row(path: str | Path, number: int, line: str) -> tuple[str, str]:
    key, _, value = line.partition(" ")
    if "\t" in key:
        key, _, value = line.partition("\t")
    if not key:
        raise UserError(f"{path}:{number}: the line does not start with a key")
    if not key.isprintable() and has_odd_characters(key):
        raise UserError(f"{path}:{number}: the key {key!r} has a control character or a special space")
    return key, value


def repeated_key(path: str | Path, number: int, key: str) -> UserError:
    """Return the error for a line whose key is that of a line before."""
    return UserError(f"{path}:{number}: {key} occurs a second time")


def read_text(path: str | Path, encoding: str = "utf-8-sig") -> str:
    """Return the content of a text file, without a U+FEFF at the start, as editors on Windows write.

    Raises:
        UserError: it cannot be read or has another encoding.
    """
    with _reading(path):
        return Path(path).read_text(encoding=encoding)


def read_lines(path: str | Path) -> list[str]:
    r"""Return the lines of a UTF-8 file without their ends, which are \n, \r\n or \r as ESPnet reads them.

    Not ``str.splitlines``: it divides at eight more characters, such as U+0085 and U+2028 within a line.

    Raises:
        UserError: the file cannot be read or is not UTF-8.
    """
    return list(iterate_lines(path))


def iterate_lines(path: str | Path) -> Iterator[str]:
    """Yield the lines of ``read_lines``."""
    with _reading(path), Path(path).open(encoding="utf-8-sig") as f:
        for line in f:
            yield line.removesuffix("\n")


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text: {e}") from None
    except (OSError, ValueError) as e:  # ValueError: a NUL in the path
        raise UserError(f"{path} cannot be read: {getattr(e, 'strerror', e)}") from None


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as e:
        raise UserError(f"{path}:{e.lineno}: not JSON: {e.msg}") from None
    except (ValueError, RecursionError) as e:  # a number of 5000 digits, 100,000 brackets
        raise e if isinstance(e, UserError) else UserError(f"{path}: not plain JSON: {e}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a JSON object")
    return content


def has_odd_characters(name: str) -> bool:
    """Return True if a name has white space or control characters, which tables cannot hold."""
    return name.split() != [name] or CONTROL.search(name) is not None


def table_files(path: str | Path) -> list[Path]:
    """Return the files of a table: the file itself, or the parts in a directory of ESPnet's split_scps."""
    path = Path(path)
    return sorted(path.glob("split.*")) if path.is_dir() else [path]


def write_table(path: str | Path, table: Mapping[str, object]) -> None:
    """Write a Kaldi table sorted by key, atomically."""
    write_rows(path, rows_of(table))


def rows_of(table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield key and value, sorted by key."""
    return ((key, table[key]) for key in sorted(table))


def write_rows(path: str | Path, rows: Iterable[tuple[str, object]]) -> None:
    """Write the sorted rows of a Kaldi table, atomically.

    Raises:
        UserError: a value has a line break, as the name of a file may, so that no table can hold it.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as f:
        for key, value in rows:
            f.write(row_line(path, key, value))


def row_line(path: str | Path, key: str, value: object) -> str:
    """Return the line of a row of a table.

    Raises:
        UserError: a line break in it.
    """
    line = f"{key} {value}".rstrip()
    if "\n" in line or "\r" in line:
        raise UserError(f"{path}: a line break in {line!r}: rename the file or correct the text")
    return line + "\n"


def fsync(*paths: Path) -> None:
    """Flush files to the disk, so that they survive a crash of the machine."""
    for path in paths:
        with path.open("rb") as f:
            os.fsync(f.fileno())


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None


def changed_file(directory: Path, known: Mapping[str, str]) -> str | None:
    """Return the first file of a directory that is another one now; None if there is none. Files may be gone.

    Args:
        known: name -> fingerprint, as it was.
    """
    found = {name: path for name in known if (path := directory / name).is_file()}
    return next((name for name, path in found.items() if fingerprint(path) != known[name]), None)


def _temporary_beside(path: Path, suffix: str | None = None) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix if suffix is None else suffix
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=suffix, dir=path.parent)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror}") from None
    os.close(handle)
    os.chmod(name, 0o666 & ~_umask())
    return Path(name)


def _take_place(new: Path, path: Path) -> None:
    """Rename a directory to its final name and remove what had the name, safely for several processes."""
    is_dir = True
    with suppress(FileNotFoundError):  # one look: between two another process may take it away
        is_dir = stat.S_ISDIR(path.lstat().st_mode)
    if not is_dir:
        raise UserError(f"{path} is in the way: a directory of that name is to be written")
    old = new.with_name(f"{new.name}{ASIDE}")
    while True:
        try:
            os.rename(new, path)
            break
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.rename(path, old)
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
