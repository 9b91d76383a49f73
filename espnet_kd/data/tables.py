"""Kaldi tables of any size: read and written row by row, sorted by key, in little memory.

A table is sorted by the bytes of its keys, as ``LC_ALL=C sort`` sorts. Nothing here keeps all rows in memory,
so that lists of ten million utterances can be prepared on any machine; what must be sorted is sorted on disk
by ``sort`` of coreutils.
"""

import heapq
import io
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import groupby, islice, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import IO

from espnet_kd.errors import UserError
from espnet_kd.files import FULL, fsync, iterate_rows, repeated_key, row_line

Row = tuple[str, str]
IN_MEMORY = 100_000  # lines; more are sorted on disk
SORT_MEMORY = "256M"
END: Row = ("", "")  # after the last row; no key is empty


class SortedTable:
    """The rows of a table on disk, in the order of their keys.

    The file is read once when the object is made, to check its keys. If they are not in order, a sorted copy
    in the directory of temporary files is read instead.

    Raises:
        UserError: see ``files.iterate_rows``; or a key is repeated.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._copy: IO[str] | None = None  # removed with the object
        self._count, last, ordered = 0, "", True
        for key, _ in iterate_rows(path):
            self._count += 1
            if key <= last:
                if key == last:
                    raise repeated_key(path, self._count, key)
                ordered = False
            last = key
        if not ordered:
            with _room_to_sort():
                self._copy = self._sorted_copy()

    def _sorted_copy(self) -> IO[str]:
        copy = tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="\n", suffix=".sorted")
        try:
            self._write_sorted(copy)
        except BaseException:  # whose traceback would keep the file until the process ends, and beyond
            with suppress(OSError):
                copy.close()
            raise
        return copy

    def _write_sorted(self, copy: IO[str]) -> None:
        last = ""
        for line in sort_lines(f"{key} {value}" for key, value in iterate_rows(self.path)):
            key = line.partition(" ")[0]
            if key == last:
                rows = (number for number, row in enumerate(iterate_rows(self.path), 1) if row[0] == key)
                raise repeated_key(self.path, list(islice(rows, 2))[1], key)
            copy.write(line + "\n")
            last = key
        copy.flush()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Row]:
        yield from iterate_rows(self._copy.name if self._copy else self.path)  # keeps this object

    def ids(self) -> Iterator[str]:
        """Yield the keys."""
        return (key for key, _ in self)

    def values(self) -> Iterator[str]:
        """Yield the values, in the order of the keys."""
        return (value for _, value in self)


class Lookup:
    """Find values of a sorted table for keys that are asked for in sorted order; some may be missing."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = iter(rows)
        self._next = next(self._rows, END)

    def get(self, key: str) -> str | None:
        """Return the value of a key, or None if the table lacks it."""
        while self._next is not END and self._next[0] < key:
            self._next = next(self._rows, END)
        return self._next[1] if self._next[0] == key else None


def join(path: Path, tables: Mapping[str, SortedTable]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each key with its values in several tables.

    Args:
        path: directory of the tables, for messages.
        tables: name -> table.

    Raises:
        UserError: the tables have different keys; names the first, and the number of those that differ.
    """
    for rows in zip_longest(*tables.values(), fillvalue=END):
        keys, values = zip(*rows, strict=True)
        if keys.count(keys[0]) != len(keys):
            (first, one), *others = tables.items()
            for second, two in others:
                check_same_keys(path, {first: one.ids(), second: two.ids()})
        yield keys[0], values


def check_same_keys(path: Path, tables: Mapping[str, Iterable[str]]) -> None:
    """Refuse two tables of one directory that have different keys.

    Args:
        path: directory of the tables, for messages.
        tables: name -> sorted keys, of two tables.

    Raises:
        UserError: names the first key that only one table has, and the number of such keys.
    """
    names = list(tables)
    differing = unshared_keys(*tables.values())
    if (found := next(differing, None)) is not None:
        key, side = found
        count = 1 + sum(1 for _ in differing)
        more = f" ({count} ids differ)" if count > 1 else ""
        raise UserError(f"{path}: {key} is in {names[side]} but not in {names[1 - side]}{more}")


def unshared_keys(one: Iterable[str], two: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield the keys that only one of two sorted tables has, each with 0 for the first table or 1."""
    both = heapq.merge(((key, 0) for key in one), ((key, 1) for key in two))
    for key, group in groupby(both, itemgetter(0)):
        (_, side), *other = group
        if not other:
            yield key, side


def sort_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines in the order of their bytes; few are sorted in memory, more on disk.

    Raises:
        UserError: ``sort`` fails, perhaps for lack of space for temporary files.
    """
    lines = iter(lines)
    head = list(islice(lines, IN_MEMORY))
    if len(head) < IN_MEMORY:
        yield from sorted(head)
        return
    folder = tempfile.gettempdir()
    with tempfile.TemporaryFile("w", encoding="utf-8", newline="\n") as unsorted:
        with _room_to_sort():
            unsorted.writelines(f"{line}\n" for part in (head, lines) for line in part)
            unsorted.seek(0)
        del head
        command = ["sort", "-S", SORT_MEMORY, "-T", folder]
        environment = os.environ | {"LC_ALL": "C"}
        with subprocess.Popen(
            command, stdin=unsorted, stdout=subprocess.PIPE, env=environment
        ) as process:
            assert process.stdout is not None
            for line in io.TextIOWrapper(process.stdout, encoding="utf-8", newline="\n"):
                yield line.removesuffix("\n")
        if process.returncode:
            raise _no_room_to_sort(folder)


@contextmanager
def _room_to_sort() -> Iterator[None]:
    """Name the directory of temporary files if it is full; otherwise what is written would be blamed."""
    try:
        yield
    except OSError as e:
        if e.errno not in FULL:
            raise
        raise _no_room_to_sort(tempfile.gettempdir()) from None


def _no_room_to_sort(folder: str) -> UserError:
    return UserError(f"sorting in {folder} failed: make room, or set TMPDIR to another directory")


def spk2utt_rows(speaker: SortedTable) -> Iterator[Row]:
    """Yield the sorted rows of the table spk2utt that belongs to a table utt2spk."""
    last, ordered = "", True
    for name in speaker.values():
        ordered, last = ordered and name >= last, name
    pairs: Iterable[Row] = ((name, utt) for utt, name in speaker)
    if not ordered:
        lines = sort_lines(f"{name} {utt}" for name, utt in pairs)
        pairs = ((name, utt) for name, _, utt in (line.partition(" ") for line in lines))
    for name, group in groupby(pairs, itemgetter(0)):
        yield name, " ".join(utt for _, utt in group)


def write_columns(
    directory: Path, names: Sequence[str], rows: Iterable[tuple[str, Sequence[object]]]
) -> int:
    """Write several tables in one pass, and return the number of rows.

    Args:
        directory: a temporary one, because the tables are incomplete while they are written.
        names: of the tables.
        rows: sorted keys, each with its value in every table; a table lacks the key whose value is None.

    Raises:
        UserError: a value has a line break.
    """
    count = 0
    with ExitStack() as stack:
        files = [stack.enter_context((directory / name).open("w", encoding="utf-8")) for name in names]
        for key, values in rows:
            count += 1
            for file, value in zip(files, values, strict=True):
                if value is not None:
                    file.write(row_line(file.name, key, value))
    fsync(*(directory / name for name in names))
    return count
