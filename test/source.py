"""Reading our own source, for the tests of its rules."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "espnet_kd"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    """All .py files below the folders of the checkout, as relative paths."""
    return sorted(p.relative_to(ROOT) for folder in folders for p in (ROOT / folder).rglob("*.py"))


def imported(tree: ast.AST, folder: tuple[str, ...] = ()) -> set[str]:
    """Dotted names that a module imports, wherever in it; ``from a import b`` gives ``a.b``.

    Args:
        tree: the module.
        folder: the package of the file, for relative imports.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) - node.level + 1] if node.level else ()
            base = ".".join([*start, *filter(None, [node.module])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def third_party(names: set[str]) -> set[str]:
    """The distributions' top-level modules among imported names."""
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"espnet_kd", "bench"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the name it is made by, such as ``torch.load``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> str | None:
    """A keyword argument as it is written, or None."""
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def with_items(tree: ast.AST) -> Iterator[ast.withitem]:
    """Every ``with ... as name`` that gives a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and node.optional_vars:
            yield node
