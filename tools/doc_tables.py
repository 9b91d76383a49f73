"""Write the tables of docs/ that come from the code: `python tools/doc_tables.py`, part of `make docs`.

A page marks where a table belongs::

    <!-- begin criterion kl -->
    <!-- end -->

Names, types and defaults are those of signatures, texts those of docstrings ("Args:", and "Keys:" of
functions that check a mapping of a configuration). Error messages are those that wrong values cause.
"""

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from espnet_kd.command_line import GROUPS, example  # noqa: E402
from espnet_kd.criteria import CRITERIA, Criterion, build_criterion  # noqa: E402
from espnet_kd.encoders.register import ENCODERS, FRONTENDS  # noqa: E402
from espnet_kd.experiments.command import parser as experiments_parser  # noqa: E402
from espnet_kd.export.quantised import quantise_options  # noqa: E402
from espnet_kd.methods import registered  # noqa: E402
from espnet_kd.methods.consistency import consistency_options  # noqa: E402
from espnet_kd.methods.mutual import mutual_options, peer_changes, peer_weight  # noqa: E402
from espnet_kd.methods.nbest import nbest_options  # noqa: E402
from espnet_kd.methods.prune import prune_options  # noqa: E402
from espnet_kd.methods.sampling import prefix_options, sampling_probability  # noqa: E402
from espnet_kd.schedule import build_schedule  # noqa: E402
from espnet_kd.tasks.asr import ASRDistillationTask, add_arguments  # noqa: E402
from espnet_kd.teachers.options import teacher_options, term_options  # noqa: E402

MARK = re.compile(r"(<!-- begin (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
WRONG_VALUES = ("other", -1, 0.5, [0], {"other": 1})  # values of which most keys refuse at least one
CLASSES = 30  # tokens of the model whose options are checked
KL = {"type": "kl", "tap": "ctc.ctc_lo"}
FROM_MODELS = ("student_dim", "teacher_dim")  # options that the program sets
CHOICES = re.compile(r"\w+(, \w+)* or \w+")
KINDS = {"number", "list", "integer", "directory"}
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{5})")


class Key(NamedTuple):
    """One row of a table."""

    name: str
    type: str
    default: str
    meaning: str
    error: str = ""


def table(keys: list[Key]) -> str:
    """Return a table of keys in Markdown, without empty columns; a sentence if there are no keys."""
    if not keys:
        return "It has no keys of its own.\n"
    columns = {
        "key": lambda key: f"`{key.name}`",
        "type": lambda key: key.type,
        "default": lambda key: f"`{key.default}`" if key.default and " " not in key.default else key.default,
        "meaning": lambda key: inline(key.meaning),
        "a wrong value gives": lambda key: code(key.error),
    }
    rows = [[show(key) for show in columns.values()] for key in keys]
    used = [column for column in range(len(columns)) if any(row[column] for row in rows)]
    lines = [list(columns), ["---"] * len(columns), *rows]
    lines = [[line[column] for column in used] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |".replace("  ", " ") for line in lines) + "\n"


def inline(text: str) -> str:
    """Return text of a docstring as Markdown for a cell of a table."""
    return text.replace("``", "`").replace("|", "\\|").replace("<", "&lt;")


def code(text: str) -> str:
    """Return an error message as code for a cell of a table."""
    fence = "``" if "`" in text else "`"
    pad = " " if fence == "``" else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|") if text else ""


def section(docstring: str, name: str) -> str:
    """Return the indented text below a heading such as "Args:" of a docstring."""
    lines = inspect.cleandoc(docstring).split("\n")
    if f"{name}:" not in lines:
        return ""
    found = []
    for line in lines[lines.index(f"{name}:") + 1 :]:
        if line and not line.startswith(" "):
            break
        found.append(line)
    return textwrap.dedent("\n".join(found)).strip()


def entries(text: str) -> dict[str, str]:
    """Return name -> text of a section; continuation lines are indented."""
    joined = re.sub(r"\n\s+", " ", text)
    return dict(re.match(r"(.+?): (.*)", line).groups() for line in joined.split("\n") if line)


def error_message(check: Callable[[Any], object]) -> str:
    """Return the error message of the first wrong value that is refused."""
    for value in WRONG_VALUES:
        try:
            check(value)
        except (ValueError, TypeError) as error:
            return str(error)
    return ""


def docstring_table(function: Callable[..., object], check: Callable[[str, Any], object]) -> str:
    """Return the table of the keys in a docstring's "Keys:", `name (type; default): meaning`."""
    keys = []
    for head, meaning in entries(section(function.__doc__ or "", "Keys")).items():
        name, type_, default = re.fullmatch(r"(\w+) \(([^;)]*)(?:; ([^)]*))?\)", head).groups()
        if CHOICES.fullmatch(type_) and not KINDS & set(re.findall(r"\w+", type_)):
            type_ = re.sub(r"\b(?!or\b)\w+", r"`\g<0>`", type_)
        error = error_message(lambda value, name=name: check(name, value))
        keys.append(Key(name, type_, default or "", meaning, error))
    return table(keys)


def type_name(annotation: Any) -> str:
    """Return the name of a type for readers of YAML."""
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if args := [a for a in get_args(annotation) if a is not type(None)]:
        origin = get_origin(annotation)
        if isinstance(origin, type) and not issubclass(origin, str):
            return {"Sequence": "list", "Mapping": "mapping"}.get(
                origin.__name__, " or ".join(map(type_name, args))
            )
        return " or ".join(map(type_name, args))
    names = {float: "number", int: "integer", str: "text", bool: "true or false", list: "list"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default_of(parameter: inspect.Parameter) -> str:
    """Return a default value in YAML; long ones, of published architectures, as a phrase."""
    value = parameter.default
    if value is parameter.empty or value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) < 40 else "as published"


def argument_table(cls: type, check: Callable[[str, Any], object] | None, leave_out: tuple[str, ...]) -> str:
    """Return the table of the arguments of a class."""
    texts = entries(section(cls.__doc__ or "", "Args"))
    hints = get_type_hints(cls.__init__)
    keys = []
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in leave_out:
            continue
        default = default_of(parameter)
        error = error_message(lambda value, name=name: check(name, value)) if check else ""
        keys.append(Key(name, type_name(hints[name]), default, texts[name], error))
    return table(keys)


def link_papers(text: str) -> str:
    """Return a source with links to its papers."""
    text = re.sub(r"\s+", " ", text)
    return ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def criterion(name: str) -> str:
    """Return the section of a criterion: what it computes, its options and its source."""
    cls = CRITERIA[name]
    doc = inspect.cleandoc(cls.__doc__ or "")
    text = doc.split("\nArgs:")[0].strip()
    own = argument_table(
        cls, lambda key, value: build_criterion(name, **{key: value}), ("reduction", *FROM_MODELS)
    )
    source = section(cls.__doc__ or "", "Source")
    return f"{inline(text)}\n\n{own}" + (f"\nSource: {link_papers(source)}\n" if source else "")


def shared() -> str:
    """Return the keys that every entry of `criteria` has."""

    def check(key: str, value: Any) -> object:
        entry = {**KL, key: value}
        return [t.build() for t in term_options({"ctc": entry})]

    rows = docstring_table(term_options, check)
    others = argument_table(Criterion, lambda key, value: Criterion(**{key: value}), ())
    return rows + others.split("\n", 2)[2]


def training() -> str:
    """Return the top-level options, with the texts of `espnet-kd train --help`."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    stock = vars(ASRDistillationTask.get_parser().parse_args([]))
    kinds = {"str2bool": "true or false", "parse_yaml": "number or schedule", "int": "integer", None: "text"}
    keys = []
    for action in parser._actions[1:]:

        def check(value: Any, name: str = action.dest) -> None:
            args = argparse.Namespace(**{**stock, name: value})
            for method in registered():
                method.check(args, CLASSES)

        mapping = action.default == {}
        kind = "mapping" if mapping else kinds[getattr(action.type, "__name__", None)]
        default = "" if mapping or action.default is None else str(action.default)
        keys.append(Key(action.dest, kind, default, action.help, error_message(check)))
    return table(keys)


def teacher() -> str:
    """Return the keys of `teacher`."""
    return docstring_table(
        teacher_options, lambda key, value: teacher_options({"exp": "exp/teacher", key: value})
    )


def schedule() -> str:
    """Return the keys of a schedule."""
    entry = {"from": 1.0, "to": 0.0, "steps": 100}
    return docstring_table(build_schedule, lambda key, value: build_schedule({**entry, key: value}, "weight"))


def mutual() -> str:
    """Return the keys of `mutual`."""
    entry = {"criteria": {"ctc": KL}}

    def check(key: str, value: Any) -> None:
        args = {**entry, key: value}
        mutual_options(args)
        peer_changes(args)
        peer_weight(args)

    return docstring_table(mutual_options, check)


def consistency() -> str:
    """Return the keys of `consistency`."""
    entry = {"criteria": {"ctc": KL}}
    return docstring_table(
        consistency_options, lambda key, value: consistency_options({**entry, key: value})
    )


def nbest() -> str:
    """Return the keys of `nbest`."""
    entry = {"records": "decoded"}
    return docstring_table(nbest_options, lambda key, value: nbest_options({**entry, key: value}))


def sampling() -> str:
    """Return the keys of `scheduled_sampling`."""
    return docstring_table(
        sampling_probability,
        lambda key, value: sampling_probability(argparse.Namespace(scheduled_sampling={key: value})),
    )


def prefix() -> str:
    """Return the keys of `prefix`."""
    entry = {"student": 0.3, "sample": "nucleus"}
    return docstring_table(prefix_options, lambda key, value: prefix_options({**entry, key: value}))


def quantise() -> str:
    """Return the keys of `quantise`."""
    return docstring_table(quantise_options, lambda key, value: quantise_options({key: value}))


def prune() -> str:
    """Return the keys of `prune`."""
    entry = {"target": 0.5, "end": 100}
    return docstring_table(prune_options, lambda key, value: prune_options({**entry, key: value}))


def architecture(name: str) -> str:
    """Return the options of an encoder or front end of espnet_kd."""
    cls = {**ENCODERS, **FRONTENDS}[name]
    return argument_table(cls, None, ("input_size",))


def shell_options(file: Path) -> Iterator[tuple[str, list[Key]]]:
    """Yield headings and options that a script declares between "# options" and "# end of options"."""
    block = re.search(r"^# options\n(.*?)^# end of options", file.read_text(), re.MULTILINE | re.DOTALL)[1]
    heading, keys = "", []
    for line in block.split("\n"):
        if option := re.match(r"([a-z]\w*)=(.*?)\s+# (.*)", line):
            name, default, text = option.groups()
            default = default.strip("'\"").replace("$(processors)", "number of cores")
            keys.append(Key(f"--{name}", "", default, re.sub("^list:", "*list:*", text)))
        elif more := re.match(r"\s+# (.*)", line):
            keys[-1] = keys[-1]._replace(meaning=f"{keys[-1].meaning} {more[1]}")
        elif title := re.match(r"# (.*)", line):
            if keys:
                yield heading, keys
            heading, keys = title[1], []
    yield heading, keys


def kd_sh() -> str:
    """Return the options of kd.sh."""
    parts = []
    for heading, keys in shell_options(ROOT / "egs/TEMPLATE/kd1/kd.sh"):
        parts.append(f"### {heading}\n\n" + table(keys).replace("| key |", "| option |"))
    return "\n".join(parts)


def recipe_options() -> str:
    """Return the additional options of the recipes."""
    parts = []
    for file in sorted(ROOT.glob("egs/*/kd1/db.sh")):
        for _, keys in shell_options(file):
            parts.append(
                f"`{file.parent.relative_to(ROOT)}`\n\n" + table(keys).replace("| key |", "| option |")
            )
    return "\n".join(parts)


def experiments() -> str:
    """Return the options of `espnet-kd experiments`, with the texts of its `--help`."""
    actions = [action for action in experiments_parser()._actions[1:] if action.option_strings]
    keys = [Key(action.option_strings[0], "", "", action.help % vars(action)) for action in actions]
    return table(keys).replace("| key |", "| option |")


def folders() -> str:
    """Return the parts of the package with the first lines of their docstrings."""
    lines = ["| part | what |", "| --- | --- |"]
    package = ROOT / "espnet_kd"
    for file in [*sorted(package.glob("*/__init__.py")), *sorted(package.glob("[a-z]*.py"))]:
        doc = ast.get_docstring(ast.parse(file.read_text())) or ""
        name = f"{file.parent.name}/" if file.name == "__init__.py" else file.name
        lines.append(f"| `{name}` | {inline(' '.join(doc.split(chr(10) * 2)[0].split()))} |")
    return "\n".join(lines)


def commands() -> str:
    """Return the commands by group, with an example of each."""
    parts = []
    for group, members in GROUPS.items():
        parts += [f"## {group[0].upper()}{group[1:]}\n", "| command | what, and an example |"]
        parts.append("| --- | --- |")
        for name, command in members.items():
            parts.append(f"| `{name}` | {inline(command.text)}<br>`{example(name)}` |")
        parts.append("")
    return "\n".join(parts)


TABLES: Mapping[str, Callable[[], str]] = {
    "training": training,
    "teacher": teacher,
    "shared": shared,
    **{f"criterion {name}": lambda name=name: criterion(name) for name in CRITERIA},
    "schedule": schedule,
    "mutual": mutual,
    "consistency": consistency,
    "nbest": nbest,
    "scheduled_sampling": sampling,
    "prefix": prefix,
    "quantise": quantise,
    "prune": prune,
    **{f"architecture {name}": lambda name=name: architecture(name) for name in (*ENCODERS, *FRONTENDS)},
    "kd.sh": kd_sh,
    "recipe options": recipe_options,
    "experiments": experiments,
    "folders": folders,
    "commands": commands,
}


def with_tables(page: str) -> str:
    """Return a page with its tables made anew from the code."""
    return MARK.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]().strip()}\n\n{found[3]}", page)


def main() -> None:
    """Update every page of docs/."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text()
        if (new := with_tables(text)) != text:
            page.write_text(new)
            print(f"{page.relative_to(ROOT)}: tables updated")


if __name__ == "__main__":
    main()
