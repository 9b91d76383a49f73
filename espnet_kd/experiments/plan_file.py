"""Read a plan from its file, ``plans/NAME.yaml`` in a recipe; ``docs/experiments.md`` describes its keys."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from espnet_kd.config import merge, read_config, refuse_unknown
from espnet_kd.errors import UserError
from espnet_kd.experiments.plan import Frontier, Group, Plan, Row, Teacher, Variant, variants_of

PLAN_KEYS = (
    "title options args seeds metric valid_set test_sets lengths rows against groups frontier not_run"
).split()
ROW_KEYS = "like options args seeds lengths teacher after best_of against".split()
METRICS = ("wer", "cer")
LENGTH = re.compile(r"[\w.+-]+")
SEEDS = 1 << 32  # numpy's generators accept no larger ones
HEADLINE = 8  # variants of the first group: a table that can be read at once
CURVES = 6  # lines of a plot of the frontier
# Options of run.sh that the runner sets itself, and those that would start something else.
RESERVED = frozenset(
    """
    teacher_config teacher_exp teacher_tag teacher_args student_exp student_tag student_args stage stop_stage
    skip_stages skip_data_prep skip_train skip_eval skip_packing results_md generation help dry_run detach
    """.split()
)
# Options of data that are not a part of the names of directories: of audio, and of tokens.
OF_AUDIO = (
    "fs", "min_wav_duration", "max_wav_duration", "audio_format", "feats_type", "speed_perturb_factors",
    "local_data_opts", "post_process_local_data_opts",
)  # fmt: skip
OF_TRAINING_SET = ("speed_perturb_factors", "post_process_local_data_opts")
OF_TOKEN_NAMES = ("token_type", "nbpe", "bpemode", "token_from")
OF_TOKENS = (
    "bpe_train_text", "nlsyms_txt", "bpe_nlsyms", "bpe_char_cover", "bpe_input_sentence_size",
    "cleaner", "g2p",
)  # fmt: skip
OF_RUN_SH = ("speed_perturb_factors", "bpe_train_text")  # whose defaults a recipe may have changed
# Options of a training that the plan sets itself.
RESERVED_ARGS = frozenset(("seed", "config", "output_dir", "resume"))


def read_plan(path: str | Path) -> Plan:
    """Read a plan.

    Raises:
        UserError: it cannot be read, has an unknown key or a wrong value, or names a row or length that it
            does not have.
    """
    path = Path(path)
    content = read_config(path)
    refuse_unknown(str(path), content, PLAN_KEYS)
    specs = _mapping(path, "rows", content.get("rows"))
    if not specs:
        raise UserError(f"{path} has no rows: write `rows: {{NAME: {{options: {{...}}}}}}`")
    for name in _list(path, "against", content.get("against")):
        _known(f"{path}: against", "row", str(name), map(str, specs))
    lengths = {
        str(k): _args(path, f"lengths: {k}", v)
        for k, v in _mapping(path, "lengths", content.get("lengths")).items()
    }
    for length in lengths:
        if not LENGTH.fullmatch(length):
            raise UserError(f"{path}: the length {length!r} is a part of directories: use letters and digits")
    reader = _Rows(path, content, specs, lengths)
    rows = {str(name): reader.row(str(name)) for name in specs}
    metric = str(content.get("metric", "wer"))
    if metric not in METRICS:
        raise UserError(f"{path}: metric: {metric} is not one of {', '.join(METRICS)}")
    plan = Plan(
        path,
        title=_text(path, "title", content.get("title") or path.stem),
        rows=rows,
        lengths=lengths,
        groups=tuple(_group(path, rows, spec) for spec in _list(path, "groups", content.get("groups"))),
        frontier=tuple(
            _frontier(path, rows, spec) for spec in _list(path, "frontier", content.get("frontier"))
        ),
        not_run={str(k): str(v) for k, v in _mapping(path, "not_run", content.get("not_run")).items()},
        metric=metric,
        valid_set=_text(path, "valid_set", content.get("valid_set", "dev")),
        test_sets=tuple(_text(path, "test_sets", content.get("test_sets", "test")).split()),
    )
    _check(plan)
    return plan


class _Rows:
    """Reads the rows of a plan, each after the row that it is ``like``."""

    def __init__(self, path: Path, content: dict[str, Any], specs: dict[str, Any], lengths: Any) -> None:
        self.path = path
        self.content = content
        self.specs = {str(name): spec for name, spec in specs.items()}
        self.lengths = lengths

    def row(self, name: str) -> Row:
        """Return a row of the plan.

        Raises:
            UserError: the row has an unknown key or a wrong value.
        """
        where = f"{self.path}, row {name!r}"
        spec = self._complete(name, ())
        refuse_unknown(where, spec, ROW_KEYS)
        options = merge(
            _mapping(self.path, "options", self.content.get("options")),
            _mapping(self.path, f"options of {name!r}", spec.get("options")),
        )
        reserved = sorted(RESERVED & options.keys())
        if reserved:
            raise UserError(f"{where}: --{reserved[0]} is set for every training by the plan: leave it out")
        for key, value in options.items():
            _text(self.path, f"options of {name!r}: {key}", value)
        args = merge(
            _args(self.path, "args", self.content.get("args")),
            _args(self.path, f"args of {name!r}", spec.get("args")),
        )
        for key in ("options", "args"):
            if spec.get("best_of") and spec.get(key):
                raise UserError(f"{where}: best_of trains one of its rows as it is: leave out `{key}`")
        lengths = self._lengths(where, spec.get("lengths"))
        return Row(
            name,
            options,
            args,
            seeds=self._seeds(where, spec),
            lengths=lengths,
            teachers=tuple(self._teachers(where, spec.get("teacher"))),
            after=self._after(where, spec.get("after")),
            best_of=self._names(where, "best_of", spec.get("best_of")),
            against=self._names(where, "against", spec.get("against", self.content.get("against")), name),
        )

    def _complete(self, name: str, seen: tuple[str, ...]) -> dict[str, Any]:
        """Return what a row says, over what the row says that it is like."""
        if name in seen:
            raise UserError(f"{self.path}, row {name!r}: like: {' -> '.join([*seen, name])} is a circle")
        spec = _mapping(self.path, f"row {name!r}", self.specs[name])
        model = spec.get("like")
        if model is None:
            return spec
        _known(f"{self.path}, row {name!r}: like", "row", str(model), self.specs)
        base = self._complete(str(model), (*seen, name))
        left_out = {"like"} | ({"lengths"} & spec.keys())  # lengths are not added to those of the base
        return merge({k: v for k, v in base.items() if k not in left_out}, spec)

    def _lengths(self, where: str, given: Any) -> dict[str, dict[str, Any]]:
        row = where.removeprefix(f"{self.path}, ")
        if not isinstance(given, dict):
            given = dict.fromkeys(_list(self.path, f"{row}: lengths", given))
        for length in given:
            _known(where, "length", str(length), self.lengths)
        found = {str(k): _args(self.path, f"{row}: lengths: {k}", v) for k, v in given.items()}
        return {length: found[length] for length in self.lengths if length in found}

    def _seeds(self, where: str, spec: dict[str, Any]) -> tuple[int, ...]:
        seeds = spec.get("seeds", self.content.get("seeds", [1]))
        known = isinstance(seeds, list) and all(type(s) is int and 0 <= s < SEEDS for s in seeds)
        if not known or not seeds:
            raise UserError(f"{where}: seeds: {seeds!r} is not a list of whole numbers, such as [1, 2, 3]")
        if len(set(seeds)) < len(seeds):
            raise UserError(f"{where}: seeds: {seeds!r} has a seed twice")
        return tuple(seeds)

    def _after(self, where: str, given: Any) -> str:
        if given is not None:
            _known(f"{where}: after", "row", str(given), self.specs)
        return "" if given is None else str(given)

    def _teachers(self, where: str, given: Any) -> Iterable[Teacher]:
        for item in given if isinstance(given, list) else [] if given is None else [given]:
            if isinstance(item, dict):
                refuse_unknown(f"{where}: teacher", item, ("row", "seeds"))
                _has(f"{where}: teacher", item, "row")
                teacher = Teacher(str(item.get("row")), self._seeds(f"{where}: teacher", item))
            else:
                teacher = Teacher(str(item))
            _known(f"{where}: teacher", "row", teacher.row, self.specs)
            yield teacher

    def _names(self, where: str, key: str, given: Any, own: str = "") -> tuple[str, ...]:
        names = [str(name) for name in _list(self.path, key, given)]
        for name in names:
            _known(f"{where}: {key}", "row", name, self.specs)
        return tuple(name for name in names if name != own)


def _group(path: Path, rows: Mapping[str, Row], spec: Any) -> Group:
    spec = _mapping(path, "groups", spec)
    refuse_unknown(f"{path}: groups", spec, ("title", "rows", "text"))
    _has(f"{path}: groups", spec, "title")
    _has(f"{path}: groups", spec, "rows")
    title = str(spec.get("title", ""))
    found: list[Variant] = []
    for name in _list(path, f"rows of the group {title!r}", spec.get("rows")):
        found += find_variants(f"{path}, group {title!r}", rows.values(), str(name))
    return Group(title, tuple(found), str(spec.get("text", "")))


def find_variants(where: str, rows: Iterable[Row], name: str) -> list[Variant]:
    """Return the variants of a name: all of a row, or the one that is called so.

    Raises:
        UserError: there is neither.
    """
    rows = list(rows)
    variants = [variant for row in rows for variant in variants_of(row)]
    found = [v for v in variants if v.row.name == name] or [v for v in variants if v.name == name]
    if not found:
        raise UserError(f"{where}: there is no row {name!r}; rows: {'; '.join(row.name for row in rows)}")
    return found


def _frontier(path: Path, rows: Mapping[str, Row], spec: Any) -> Frontier:
    spec = _mapping(path, "frontier", spec)
    refuse_unknown(f"{path}: frontier", spec, ("title", "alone", "methods"))
    _has(f"{path}: frontier", spec, "title")
    _has(f"{path}: frontier", spec, "alone")
    title, names = str(spec.get("title", "")), [str(n) for n in _list(path, "methods", spec.get("methods"))]
    where = f"{path}, frontier {title!r}"
    for name in (alone := str(spec.get("alone")), *names):
        _known(where, "row", name, rows)
        if not rows[name].lengths:
            raise UserError(f"{where}: the row {name!r} has no lengths, so it has no curve")
    if len(names) >= CURVES:
        raise UserError(f"{where}: {len(names)} methods and the student are more than {CURVES} lines")
    return Frontier(title, rows[alone], tuple(rows[name] for name in names))


def _check(plan: Plan) -> None:
    """Check what concerns several rows.

    Raises:
        UserError: two rows have one directory, or would prepare one directory differently; a row needs
            itself; a teacher lacks a seed; the headline is too long; ``after`` names a row with ``best_of``;
            a row with ``best_of`` has a teacher, or its candidates have no seed in common or not the same
            validation set.
    """
    slugs: dict[tuple[str, str], str] = {}
    for row in plan.rows.values():
        key = str(row.options.get("expdir", "exp")), row.slug
        if not row.name.isprintable():
            raise UserError(f"{plan.path}: the name of the row {row.name!r} has a line break or the like")
        if key in slugs or not row.slug:
            other = f"{slugs[key]!r} and {row.name!r} have" if row.slug else f"{row.name!r} has"
            raise UserError(f"{plan.path}: {other} the directory name {row.slug!r}: rename the row")
        slugs[key] = row.name
        _check_row(plan, row)
        _check_circle(plan, row, ())
    _check_data(plan)
    if plan.groups and len(plan.groups[0].variants) > HEADLINE:
        raise UserError(
            f"{plan.path}: the first group has {len(plan.groups[0].variants)} lines; the headline table has "
            f'at most {HEADLINE}: name single lengths, as in "{plan.groups[0].variants[0].name}"'
        )


def _check_data(plan: Plan) -> None:
    """Refuse rows whose data would be prepared differently under the same names: the last would serve all.

    Raises:
        UserError: names two rows, the option, and what keeps their data apart.
    """
    made: dict[tuple[Any, ...], tuple[Row, dict[str, Any]]] = {}
    for row in (row for row in plan.rows.values() if not row.best_of):
        given = dict(row.options)
        if given.get("train_set"):
            given.setdefault("bpe_train_text", f"data/{given['train_set']}/text")
        audio = (*map(given.get, ("dumpdir", "train_set")), given.get("speed_perturb_factors") == "")
        places: dict[tuple[Any, ...], tuple[tuple[str, ...], str]] = {
            audio: (OF_AUDIO, "--dumpdir and --lang"),
            tuple(map(given.get, ("lang", *OF_TOKEN_NAMES))): (OF_TOKENS, "--lang"),
        }
        others = tuple(key for key in OF_AUDIO if key not in OF_TRAINING_SET)  # beside any training set
        places[given.get("dumpdir"), "valid_set", given.get("valid_set")] = others, "--dumpdir and --lang"
        for name in str(given.get("test_sets") or "default").split():
            kept = tuple(key for key in others if not key.endswith("_wav_duration"))  # all utterances
            places[given.get("dumpdir"), "test_sets", name] = kept, "--dumpdir and --lang"
        for name in str(given.get("unlabelled_sets") or "").split():
            copies = given.get("dumpdir"), name, bool(given.get("unlabelled_speeds"))
            places["unlabelled", *copies] = (*others, "unlabelled_speeds"), "--dumpdir and --lang"
        for place, (keys, apart) in places.items():
            first, before = made.setdefault(place, (row, given))
            for key in keys:
                one, two = before.get(key), given.get(key)
                if one != two and not (key in OF_RUN_SH and None in (one, two)):
                    raise UserError(
                        f"{plan.path}: rows {first.name!r} and {row.name!r} would prepare the same "
                        f"directories with another {key} ({one or 'default'}, {two or 'default'}): "
                        f"give one another {apart}"
                    )


def _check_row(plan: Plan, row: Row) -> None:
    where = f"{plan.path}, row {row.name!r}"
    candidates = [plan.rows[name] for name in row.best_of]
    for teacher in (teacher for r in (row, *candidates) for teacher in r.teachers):
        found = plan.rows[teacher.row]
        missing = set(teacher.seeds) - set(found.seeds)
        if missing:
            raise UserError(f"{where}: the teacher {found.name!r} has no seed {min(missing)}")
        if not teacher.seeds and len(found.seeds) > 1 and not set(row.seeds) <= set(found.seeds):
            seeds = ", ".join(map(str, sorted(set(row.seeds) - set(found.seeds))))
            raise UserError(f"{where}: the teacher {found.name!r} has several seeds, but not {seeds}")
    if row.after and plan.rows[row.after].best_of:
        raise UserError(f"{where}: after: {row.after!r} has best_of: name one of its rows")
    if row.best_of:
        if row.teachers or row.after or len(row.best_of) < 2:
            raise UserError(f"{where}: best_of needs two or more rows, and no `teacher` or `after`")
        if not set(candidates[0].seeds).intersection(*(c.seeds for c in candidates)):
            raise UserError(f"{where}: the rows of best_of have no seed in common")
        valid = sorted({plan.columns(candidate)[-1] for candidate in candidates})
        if len(valid) > 1:
            raise UserError(f"{where}: the rows of best_of have several validation sets: {', '.join(valid)}")
        for length in (length for length, given in row.lengths.items() if given):
            for candidate in candidates:
                if length in candidate.lengths:
                    raise UserError(
                        f"{where}: options at the length {length} would change the training that "
                        f"{candidate.name!r} has at it: give them to that row"
                    )


def _check_circle(plan: Plan, row: Row, seen: tuple[str, ...]) -> None:
    if row.name in seen:
        raise UserError(f"{plan.path}: rows need each other in a circle: {' -> '.join([*seen, row.name])}")
    needs = *(teacher.row for teacher in row.teachers), row.after, *row.best_of
    for name in filter(None, needs):
        _check_circle(plan, plan.rows[name], (*seen, row.name))


def _mapping(path: Path, what: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: {what}: {value!r:.60} is not a mapping")
    return value


def _args(path: Path, what: str, value: Any) -> dict[str, Any]:
    """Return options of a training, without those that the plan sets itself."""
    found = _mapping(path, what, value)
    reserved = sorted(RESERVED_ARGS & found.keys())
    if reserved:
        option = f"--{reserved[0]}"
        raise UserError(f"{path}: {what}: {option} is set for every training by the plan: leave it out")
    return found


def _text(path: Path, what: str, value: Any) -> str:
    """Return a value as text; a list of names is one text in run.sh."""
    if isinstance(value, (list, dict)):
        raise UserError(f"{path}: {what}: {value!r:.60} is not a single text: write several words as `A B`")
    return str(value)


def _list(path: Path, what: str, value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise UserError(f"{path}: {what}: {value!r:.60} is not a list, such as [A, B]")
    return value


def _known(where: str, what: str, name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name not in names:
        raise UserError(f"{where}: there is no {what} {name!r}; {what}s: {'; '.join(map(str, names))}")


def _has(where: str, spec: Mapping[str, Any], key: str) -> None:
    if not spec.get(key):
        raise UserError(f"{where}: `{key}` is missing")
