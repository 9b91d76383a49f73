"""Make damaged variants of valid texts, bytes and trees of plain values; the random state decides all."""

import copy
import random
from typing import Any

TOKENS = [
    b"", b"\0", b"\n", b"\r", b"\r\n", b"\t", b" ", b"  ", b"\x0b\x0c", b"\x1b[31m", b"\x7f",
    b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\xe3\x80\x80",
    b"\xc2\xa0", b"\xf0\x9f\x98\x80", "é".encode(), "日本".encode(), "音声".encode("cp932"), b"-", b"-1",
    b"0",
    b"1", b"00", b"+", b"1e5", b"1e999", b"-1e999", b"nan", b"inf", b"99999999999999999999", b"0x10",
    b"1_000", "²".encode(), "٣".encode(), b"null", b"true", b"~", b"[", b"]", b"{", b"}", b"[[[[", b"{{",
    b'"', b"'", b"\\", b"\\u0000", b"\\ud800", b":", b": ", b",", b";", b";;", b"#", b"&a ", b"*a",
    b"<<: *a", b"!!python/object/apply:os.system", b"!!binary ", b"%", b"|", b">", b"<", b"</PATH>", b"(",
    b")", b"(A", b"(", b"..", b"../", b"/", b"//", b"~/", b".", b"$HOME", b"`id`", b"--", b"=", b"@",
    b"a" * 300, b"9" * 5000, b"x" * 3000,
]  # fmt: skip
ODD = [
    None, True, False, -1, 0, 1, 2, 0.5, 1e308, float("inf"), float("nan"), 10**30, 2**63, 2**32, -(2**31),
    "", " ", "x", "kl", "mean", "x" * 3000, "\x1b[31m", "é", "\0", "1", "1e-3", "nan", "../../x", "a b",
    "a\nb", [], {}, [[]], [None], [1, 2], ["1", "2"], {"a": 1}, {"": None},
    {"type": "kl", "tap": "decoder"}, {"schedule": "linear"},
]  # fmt: skip
NUMBER = frozenset(b"0123456789")


def mutate_bytes(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Make one to four changes of some bytes.

    Args:
        data: a valid content.
        rng: decides.
        other: another valid content, parts of which are put in.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        data = rng.choice(CHANGES)(data, rng, other)
    return data


def _span(data: bytes, rng: random.Random, most: int = 40) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.randint(1, most))


def _flip(data: bytes, rng: random.Random, other: bytes) -> bytes:
    if not data:
        return b"\0"
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _insert(data: bytes, rng: random.Random, other: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(TOKENS) + data[place:]


def _replace(data: bytes, rng: random.Random, other: bytes) -> bytes:
    start, end = _span(data, rng, 8)
    return data[:start] + rng.choice(TOKENS) + data[end:]


def _delete(data: bytes, rng: random.Random, other: bytes) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random, other: bytes) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[start:end] * rng.choice((2, 2, 3, 50)) + data[end:]


def _truncate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _splice(data: bytes, rng: random.Random, other: bytes) -> bytes:
    start, end = _span(other, rng, 200)
    place = rng.randrange(len(data) + 1)
    return data[:place] + other[start:end] + data[place:]


def _lines(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Swap, repeat or leave out lines."""
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    change = rng.randrange(4)
    if change == 0:
        lines[i], lines[j] = lines[j], lines[i]
    elif change == 1:
        lines.insert(i, lines[j])
    elif change == 2:
        del lines[i]
    else:
        fields = lines[i].split()
        rng.shuffle(fields)
        lines[i] = b" ".join(fields)
    return b"\n".join(lines)


def _digits(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Replace a number by another one."""
    places = [i for i, byte in enumerate(data[:4000]) if byte in NUMBER]
    if not places:
        return _insert(data, rng, other)
    start = end = rng.choice(places)
    while end < len(data) and data[end] in NUMBER:
        end += 1
    value = rng.choice(
        (b"0", b"-1", b"4294967296", b"1e400", b"0.5", b"99999999999999999999", b"1", b"x", b"")
    )
    return data[:start] + value + data[end:]


CHANGES = (
    _flip,
    _insert,
    _insert,
    _replace,
    _replace,
    _delete,
    _repeat,
    _truncate,
    _splice,
    _lines,
    _lines,
    _digits,
)


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """Make one to three changes of nodes of mappings and lists."""
    root = [copy.deepcopy(tree)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(root))
        container, key = rng.choice(places)
        change = rng.randrange(6)
        if change <= 2 or container is root:
            container[key] = copy.deepcopy(rng.choice(ODD))
        elif change == 3:
            del container[key]
        elif change == 4:
            other, place = rng.choice(places)
            container[key] = copy.deepcopy(other[place])
        elif isinstance(container, dict):
            container[str(rng.choice(ODD))] = container.pop(key)
        else:
            container.insert(key, copy.deepcopy(container[key]))
    return root[0]


def _places(node: Any) -> Any:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items):
        yield node, key
        yield from _places(value)
