"""Read, merge and write YAML configurations: with strict checks, in bounded time and memory."""

import argparse
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from espnet_kd.command_line import command_parser
from espnet_kd.errors import UserError
from espnet_kd.files import write_text

# ESPnet's largest config.yaml, with 250,000 tokens, has 3 MB.
LARGEST = 4 << 20  # characters of a file, also with every alias written out
MOST_VALUES = 600_000  # in a file; reading them takes some seconds and 0.4 GB
DEEPEST = 100  # levels; code that reads the result by recursion has a limit of a few hundred
LONGEST_NUMBER = 400  # characters; YAML needs quadratic time for a number such as 1:1:1:...
NUMBERS = ("int", "float", "timestamp")
EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the parser in C is several times faster


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping; an empty file gives an empty mapping.

    Raises:
        UserError: as ``read_yaml``, or the content is not a mapping.
    """
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not `key: value` lines")
    return content


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file.

    Raises:
        UserError: the file cannot be read, or as ``parse_yaml``.
    """
    try:
        with Path(path).open(encoding="utf-8") as f:
            text = f.read(LARGEST + 1)
    except FileNotFoundError:
        raise UserError(f"the configuration {path} does not exist") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not YAML: it is not UTF-8 text: {e}") from None
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        reason = getattr(e, "strerror", None) or e
        raise UserError(f"the configuration {path} cannot be read: {reason}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str = "YAML") -> Any:
    """Parse a YAML text to values of plain types.

    Args:
        text: one document.
        source: name of the text, for error messages.

    Raises:
        UserError: the text is not YAML, is too large (aliases written out) or too deep, or has a key twice.
    """
    if len(text) > LARGEST:
        raise UserError(f"{source} has more than {LARGEST >> 20} MiB: it is not a configuration")
    loader = _Loader("")
    try:
        if len(text) > MOST_VALUES and sum(1 for _ in yaml.parse(text, Loader=_Loader)) > MOST_VALUES:
            raise UserError(f"{source} has more than {MOST_VALUES} values: it is not a configuration")
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _Graph(loader, source).measure(root, 1)
        return loader.construct_document(root)
    except yaml.YAMLError as e:
        raise UserError(f"{_place(source, text, e)}: not YAML: {_reason(e)}") from None
    except RecursionError:  # from the parser in Python; the one in C has its own limit
        raise UserError(f"{source} is nested more than {DEEPEST} levels deep") from None
    finally:
        loader.dispose()


def merge_files(paths: Iterable[Path]) -> dict[str, Any]:
    """Merge configuration files, the later ones over the earlier."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_config(path))
    return merged


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings key by key; other values, also lists, are replaced by those of ``over``."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def dump_yaml(config: Mapping[str, Any]) -> str:
    """Return a mapping as YAML text, with its order of keys."""
    text: str = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return text


def check_command_line(words: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """Check the file of ``--config``: ESPnet accepts any content, and takes the last of two equal keys.

    Returns:
        Its name and content; None if there is none.

    Raises:
        UserError: as ``read_config``.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", nargs="?")
    config = parser.parse_known_args(list(words))[0].config
    return None if config is None else (str(config), read_config(config))


def as_number(value: Any) -> Any:
    """Return the number of a text like 1e-1, which YAML 1.1 reads as text; else the value unchanged."""
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def with_numbers(value: Any) -> Any:
    """Apply ``as_number`` to all values within mappings and lists."""
    if isinstance(value, dict):
        return {key: with_numbers(item) for key, item in value.items()}
    return [with_numbers(item) for item in value] if isinstance(value, list) else as_number(value)


def refuse_unknown(name: str, mapping: object, known: Sequence[str]) -> None:
    """Check that a mapping of a configuration has only known keys.

    Raises:
        UserError: it has an unknown key, or is not a mapping.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"{name}: {mapping!r} is not a mapping with {', '.join(known)}")
    unknown = [str(key) for key in mapping if key not in known]
    if unknown:
        raise UserError(f"{name}: unknown key {', '.join(unknown)}; known: {', '.join(known)}")


def split_words(options: str, name: str) -> list[str]:
    """Split an option's value, which is a list of options, as a shell does.

    Args:
        options: the value.
        name: name of the option, for the error message.

    Raises:
        UserError: a quotation is not closed.
    """
    try:
        return shlex.split(options)
    except ValueError as e:
        raise UserError(f"{name} {options!r}: {str(e).lower()}") from None


def main(argv: list[str] | None = None) -> None:
    """Run ``merge A.yaml B.yaml ... [--out FILE]``: merge configuration files; later values win."""
    parser = command_parser("merge")
    parser.add_argument("configs", nargs="+", type=Path, help="mappings; a later one wins")
    parser.add_argument("--out", type=Path, help="default: standard output")
    args = parser.parse_args(argv)
    text = dump_yaml(merge_files(args.configs))
    if args.out is None:
        print(text, end="")
        return
    write_text(args.out, text)


class _Graph:
    """Measures the nodes of a document before values are constructed; aliases share a node."""

    def __init__(self, loader: Any, source: str) -> None:
        self.loader, self.source = loader, source
        self.known: dict[int, tuple[int, int] | None] = {}  # id of a node -> characters and levels

    def measure(self, node: yaml.Node, depth: int) -> tuple[int, int]:
        """Return the characters and levels of a node with every alias written out.

        Raises:
            UserError: there are too many of them, or a mapping has a key twice.
        """
        if id(node) in self.known:
            found = self.known[id(node)]
            if found is None:
                self._refuse(node, "it contains itself, by an alias")
            return found
        self.known[id(node)] = None
        size, height = 1, 1
        if isinstance(node, yaml.ScalarNode):
            size += len(node.value)
            if size > LONGEST_NUMBER and node.tag.rpartition(":")[2] in NUMBERS:
                self._refuse(node, f"a number of {size} characters")
            self._construct(node)
        else:
            if isinstance(node, yaml.MappingNode):
                self._check_keys(node)
            for child in _children(node):
                if depth >= DEEPEST:
                    self._refuse(child, f"nested more than {DEEPEST} levels deep")
                child_size, child_height = self.measure(child, depth + 1)
                size, height = size + child_size, max(height, 1 + child_height)
                if size > LARGEST or height > DEEPEST:
                    self._refuse(child, "aliases of aliases, which are too large when written out")
        self.known[id(node)] = size, height
        return size, height

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and len(key.value) <= LONGEST_NUMBER:
                name = self._construct(key)
                if name in seen:
                    self._refuse(key, f"the key {key.value} occurs a second time: leave one of them out")
                seen.add(name)

    def _construct(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.rpartition(":")[2]
        try:
            return node.value if kind == "merge" else self.loader.construct_object(node)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):  # such as a 13th month
            self._refuse(node, f"{node.value!r} is not a valid {kind}")

    def _refuse(self, node: yaml.Node, problem: str) -> NoReturn:
        raise UserError(f"{self.source}:{node.start_mark.line + 1}: {problem}")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value)


def _place(source: str, text: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None and isinstance(error, yaml.reader.ReaderError):
        return f"{source}:{text.encode()[: error.position].count(b'\n') + 1}"
    return f"{source}:{mark.line + 1}" if mark else source


def _reason(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error).splitlines()[0]
