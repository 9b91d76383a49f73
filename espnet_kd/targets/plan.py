"""What a store has to keep for a training, and whether one fits."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from espnet_kd.config import merge_files
from espnet_kd.data import dump
from espnet_kd.data.audio import DEFAULT_RATE
from espnet_kd.data.contents import of_speech
from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint, read_table, table_files
from espnet_kd.rnnt import Joint, PathTargets
from espnet_kd.targets.format import Manifest, OutputLayer, Tap, checksum, tokens_checksum
from espnet_kd.targets.store import Store
from espnet_kd.targets.teacher import StoredTeacher
from espnet_kd.teachers.experiment import Experiment, find_checkpoint, load_experiment, read_config
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import (
    TeacherOptions,
    TermOptions,
    check_k,
    check_rate,
    check_tokens,
    common_temperatures,
    refuse_other_prefix,
    teacher_options,
    teacher_taps,
    term_options,
)
from espnet_kd.teachers.speech import check_alike
from espnet_kd.teachers.taps import LATTICE, probe

PATH_CLASSES = 8  # along the alignment of a transducer, unless teacher.k says otherwise


@dataclass(frozen=True)
class Plan:
    """A store that is wanted.

    Attributes:
        teacher: options, directories absolute.
        terms: the criteria that it is for.
        probe: positions at each tap for the noise of ``teachers.probe``.
        tokens: the token list.
        rate: Hz.
        output_layer: of a transducer whose projected outputs are kept, else None.
    """

    teacher: TeacherOptions
    terms: list[TermOptions]
    taps: dict[str, Tap]
    probe: dict[str, int]
    tokens: list[str]
    rate: int
    output_layer: OutputLayer | None = None

    def identities(self) -> list[dict[str, Any]]:
        """Fingerprints and weights of the teachers."""
        directories = self.teacher.directories
        weights = self.teacher.weights or (1.0,) * len(directories)
        return [
            {**identity(Path(d), self.teacher.checkpoint), "weight": w / sum(weights)}
            for d, w in zip(directories, weights, strict=True)
        ]

    def settings(self, data: "Data", device: str) -> dict[str, Any]:
        """Everything that the targets depend on; files by their content."""
        return {
            "teachers": self.identities(),
            "mean": self.teacher.mean,
            "tokens": tokens_checksum(self.tokens),
            "frontend": [frontend(Path(d)) for d in self.teacher.directories],
            "taps": {path: asdict(tap) for path, tap in self.taps.items()},
            "data": data.fingerprints(needs_text(self.taps)),
            "device": device,
        }


def needs_text(taps: Mapping[str, Tap]) -> bool:
    """True if a tap depends on the transcript."""
    return any(path.split(".")[0] == "decoder" or path == LATTICE for path in taps)


def plan(args: argparse.Namespace) -> Plan:
    """What a configuration of training asks for.

    Raises:
        UserError: it is wrong, asks for what cannot be stored, or does not fit the teachers.
    """
    config = merge_files(args.config)
    wanted = dict(config.get("teacher") or {})
    wanted |= {
        key: getattr(args, name)
        for key, name in (("exp", "teacher"), ("store", "store"), ("k", "k"))
        if getattr(args, name) is not None
    }
    options = teacher_options(wanted)
    if not options.directories or options.store is None:
        lacking = "--store DIR, or `teacher: {store: DIR}`" if options.directories else "--teacher EXP"
        raise UserError(f"nothing to make targets of or no place for them: give {lacking}")
    options = replace(options, directories=tuple(str(Path(d).resolve()) for d in options.directories))
    terms = term_options(config.get("criteria") or {})
    if not terms:
        raise UserError(f"{' + '.join(map(str, args.config))} has no criteria: nothing says what to keep")
    paths = teacher_taps(terms)
    temperatures = common_temperatures(terms, len(options.directories))
    experiments = load(options)
    check_k(terms, len(experiments[0].tokens))
    for experiment in experiments:
        refuse_other_prefix(experiment.model, f"teacher {experiment.directory}", [t.term for t in terms])
    rate = rate_of(experiments)
    teacher = OnlineTeacher(experiments, paths, temperatures, options.weights, options.mean)
    seen = teacher.targets(*probe(rate))
    ensemble = len(experiments) > 1
    taps = {p: _tap(p, seen[p].values, terms, options.k, args.number, temperatures, ensemble) for p in paths}
    positions = {path: int(seen[path].lengths.max()) for path in paths}
    joints = [seen[path].joint for path, tap in taps.items() if tap.kind == "joint"]
    layer = _output_layer(joints[0]) if joints else None
    return Plan(options, terms, taps, positions, experiments[0].tokens, rate, layer)


def load(options: TeacherOptions) -> list[Experiment]:
    """The teachers, which have one token list and take the same waveforms.

    Raises:
        UserError: they do not.
    """
    experiments = [load_experiment(d, options.checkpoint) for d in options.directories]
    first = next((e for e in experiments if e.rate is not None), experiments[0])
    for other in experiments:
        check_tokens(experiments[0].tokens, other)
        check_rate(first.rate, f"teacher {first.directory}", other)
        if other.features is not None:
            raise UserError(
                f"teacher {other.directory} takes features (input_size: {other.features}), but here it would "
                "get waveforms: use it beside the student in training, `teacher: {exp: DIRECTORY}`"
            )
    check_alike([experiment.directory for experiment in experiments])
    return experiments


def rate_of(experiments: Sequence[Experiment]) -> int:
    """Hz of the speech that teachers hear."""
    return next((e.rate for e in experiments if e.rate is not None), DEFAULT_RATE)


def _lattice_tap(values: Joint | PathTargets, term: TermOptions, k: int | None, number: Any) -> Tap:
    """What the kind needs; all but two need the whole lattice, which its projected outputs stand for."""
    criterion = term.build()
    size = values.tokens.shape[-1] if isinstance(values, PathTargets) else values.classes
    temperature = 1.0 if criterion.temperature is None else criterion.temperature  # each of a lattice has one
    if criterion.kind == "collapsed":
        return Tap("collapsed", size, 0, temperature, number)
    if criterion.kind == "one_best":
        return Tap("path", size, min(k or PATH_CLASSES, size), temperature, number)
    assert isinstance(values, Joint)  # an ensemble gives a path
    return Tap("joint", values.enc.shape[-1], number=number)


def _output_layer(joint: Joint) -> OutputLayer:
    """Of a joint network, for the store.

    Raises:
        UserError: its activation has no name that a store knows.
    """
    if not isinstance(joint.activation, str):
        raise UserError(
            f"a joint network with {type(joint.activation).__name__} cannot be stored, only one with tanh: "
            "use the kind collapsed or one_best, or an online teacher"
        )
    weight, bias = (x.detach().float().cpu().numpy() for x in (joint.weight, joint.bias))
    return OutputLayer(weight, bias, joint.activation)


def _tap(
    path: str,
    values: Any,
    terms: Sequence[TermOptions],
    k: int | None,
    number: Any,
    temperatures: Mapping[str, float],
    ensemble: bool,
) -> Tap:
    """Classes if every criterion at the tap needs no more than them, else values as they are."""
    here = [t for t in terms if t.term.teacher_tap == path]
    if path == LATTICE:
        return _lattice_tap(values, here[0], k, number)
    size = values.shape[-1]
    criteria = [t.build() for t in here]
    needed = [c.k for c in criteria]
    softened = {c.temperature for c in criteria if c.temperature is not None}
    if not here or None in needed or len(softened) > 1:
        return Tap("values", size, 0, temperatures.get(path, 1.0) if ensemble else 1.0, number)
    most = max(n for n in needed if n is not None)
    if k is not None and k < most:
        raise UserError(f"teacher: k is {k}, but a criterion at {path} needs {most} classes")
    if most > size:
        raise UserError(f"a criterion at {path} needs {most} classes, the teacher has {size}")
    return Tap("topk", size, min(k or most, size), softened.pop(), number)


@dataclass(frozen=True)
class Data:
    """Formatted data directories.

    Attributes:
        sources: the directories.
        utterances: audio, by an absolute path, and transcript ("" where none is needed), by id.
    """

    sources: list[dump.Dump]
    utterances: dict[str, tuple[str, str]]

    def fingerprints(self, with_text: bool) -> list[dict[str, Any]]:
        """Speech and transcripts of each directory by their content."""
        return [
            {
                "utterances": len(s.wav),
                "audio": of_speech(s.path),
                **({"text": fingerprint(s.path / "text")} if with_text else {}),
            }
            for s in self.sources
        ]


def read_data(paths: Sequence[Path], with_text: bool) -> Data:
    """Read data directories that stages 3 and 4 made.

    Raises:
        UserError: one is incomplete, an utterance lacks its transcript, or two have one id.
    """
    sources, found = [dump.read(path) for path in paths], {}
    for source in sources:
        texts = read_table(source.path / "text") if with_text else {}
        for utt, wav in source.absolute().items():
            if with_text and utt not in texts:
                raise UserError(
                    f"{source.path}/text has no transcript of {utt}, which targets of a decoder need"
                )
            if utt in found:
                raise UserError(f"{source.path}/wav.scp: {utt} is in another --data, too")
            found[utt] = (wav, texts.get(utt, ""))
    return Data(sources, found)


def frontend(directory: Path) -> str:
    """Fingerprint of what a teacher makes of a waveform before its encoder."""
    config = read_config(directory)
    return checksum({key: config.get(key) for key in ("frontend", "frontend_conf", "normalize")})


def stored_teacher(
    options: TeacherOptions,
    terms: Sequence[TermOptions],
    taps: Sequence[str],
    tokens: Sequence[str],
    rate: int | None,
    args: argparse.Namespace,
) -> StoredTeacher:
    """The store of a configuration.

    Args:
        options: with the store; if they name the teachers too, those must be the store's.
        terms: what is to be learned.
        taps: all that they need.
        tokens: the student's.
        rate: Hz that the student expects, if its front end says.
        args: ESPnet's, for the utterances.

    Raises:
        UserError: something does not fit, and what.
    """
    if args.input_size is not None:
        raise UserError(
            f"teacher: {options.store} has targets of waveforms, the student takes features "
            f"(input_size: {args.input_size}): give the teacher itself, `teacher: {{exp: DIRECTORY}}`"
        )
    store = Store(str(options.store))
    problem = mismatch(store.manifest, options, tokens) or unserved(store.manifest, terms, taps)
    if problem is None and rate not in (None, store.manifest.rate):
        problem = f"it is of speech at {store.manifest.rate} Hz, the student expects {rate}"
    if problem is not None:
        raise UserError(f"the targets in {store.directory} do not fit: {problem}; make them again")
    _check_utterances(store, args)
    return StoredTeacher(store, taps)


def mismatch(manifest: Manifest, options: TeacherOptions, tokens: Sequence[str]) -> str | None:
    """What makes the targets those of other teachers or tokens, or None."""
    if manifest.tokens != tokens_checksum(tokens):
        return "they are of a teacher with another token list than the student's"
    if not options.directories:
        return None
    if len(options.directories) != len(manifest.teachers):
        return f"they are of {len(manifest.teachers)} teachers, not of {len(options.directories)}"
    for directory, teacher in zip(options.directories, manifest.teachers, strict=True):
        found = identity(Path(directory), options.checkpoint)
        for key in found:
            if found[key] != teacher[key]:
                name = teacher["experiment"]
                return f"they are of another teacher, {name}: its {key} differs from {directory}'s"
    if len(options.directories) > 1 and manifest.settings["mean"] != options.mean:
        return f"they are the mean of {manifest.settings['mean']}, not of {options.mean}"
    weights = options.weights or (1.0,) * len(options.directories)
    if [w / sum(weights) for w in weights] != [teacher["weight"] for teacher in manifest.teachers]:
        return "their teachers have other weights"
    return None


def identity(directory: Path, checkpoint: str | None) -> dict[str, str]:
    """Fingerprints of a trained experiment.

    Raises:
        UserError: it is incomplete.
    """
    path = find_checkpoint(directory, checkpoint)
    return {"config": fingerprint(directory / "config.yaml"), "checkpoint": fingerprint(path)}


def unserved(manifest: Manifest, terms: Sequence[TermOptions], taps: Sequence[str]) -> str | None:
    """What the criteria need and the store does not have, or None."""
    for path in taps:
        if path not in manifest.taps:
            return f"nothing is kept at tap {path}, only at {', '.join(manifest.taps)}"
    for t in terms:
        problem = _unserved_term(manifest.taps, t, ensemble=len(manifest.teachers) > 1)
        if problem is not None:
            return f"criterion {t.term.name}: {problem} at {t.term.teacher_tap}"
    return None


def _unserved_term(taps: Mapping[str, Tap], t: TermOptions, ensemble: bool) -> str | None:
    tap, criterion = taps[t.term.teacher_tap], t.build()
    softened = tap.kind not in ("values", "joint") or ensemble
    if tap.kind != "joint" and criterion.kind != {"collapsed": "collapsed", "path": "one_best"}.get(tap.kind):
        return f"{tap.kind} targets are kept, not those of the kind {criterion.kind},"
    if tap.kind == "topk":
        if criterion.k is None:
            return f"only the {tap.k} most probable classes are kept, which serve the type topk alone,"
        if criterion.k > tap.k:
            return f"{tap.k} classes are kept, not {criterion.k},"
    if softened and criterion.temperature not in (None, tap.temperature):
        return f"the temperature is {criterion.temperature}, that of the targets {tap.temperature}"
    return None


def _check_utterances(store: Store, args: argparse.Namespace) -> None:
    """Each utterance of training and validation has targets; else a training would stop somewhere."""
    both = (args.train_data_path_and_name_and_type, args.valid_data_path_and_name_and_type)
    tables = [path for entries in both for path, name, _ in entries if name == "speech"]
    for path in (file for table in tables for file in table_files(table)):
        if (utt := store.missing(read_table(path))) is not None:
            raise UserError(
                f"{store.directory} has no targets of utterance {utt} of {path}: it was made of other data; "
                "make it again"
            )
