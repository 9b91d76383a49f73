"""Decide what a store must contain for a training; whether an existing one fits: see ``fit.py``."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from espnet_kd.config import merge_files
from espnet_kd.data import dump
from espnet_kd.data.audio import DEFAULT_RATE, read_speech
from espnet_kd.errors import UserError
from espnet_kd.rnnt import Joint, OneBestTargets
from espnet_kd.targets.format import OutputLayer, TapFormat, checksum, tokens_checksum
from espnet_kd.targets.quantiser import TRAINED_ON
from espnet_kd.targets.utterances import SourceData
from espnet_kd.teachers.kinds import Source
from espnet_kd.teachers.model import TeacherModel
from espnet_kd.teachers.named import with_teachers
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import (
    TeacherOptions,
    TermOptions,
    check_k,
    check_rate,
    common_temperatures,
    refuse_other_prefix,
    teacher_options,
    teacher_taps,
    term_options,
    token_users,
)
from espnet_kd.teachers.speech import check_alike
from espnet_kd.teachers.taps import LATTICE, LONG_PROBE, probe
from espnet_kd.teachers.token_maps import check_tokens, tokens_of

PATH_CLASSES = 8  # K along the alignment of a transducer, unless teacher.k is set


@dataclass(frozen=True)
class StorePlan:
    """What a store must contain.

    Attributes:
        teacher: options of the teachers, with absolute directories.
        terms: the criteria that the targets are for.
        taps: how the values of each layer are stored, by module path.
        probe: number of positions of each layer for the noise of ``teachers.taps.probe``.
        long_probe: the same for noise of ``teachers.taps.LONG_PROBE`` seconds.
        tokens: the token list; empty if nothing needs it.
        rate: sampling rate of the speech, in hertz.
        output_layer: of a transducer whose projected outputs are stored, else None.
        blank: number of the CTC blank among the tokens.
    """

    teacher: TeacherOptions
    terms: list[TermOptions]
    taps: dict[str, TapFormat]
    probe: dict[str, int]
    long_probe: dict[str, int]
    tokens: list[str]
    rate: int
    output_layer: OutputLayer | None = None
    blank: int = 0

    def identities(self) -> list[dict[str, Any]]:
        """Return fingerprints and weights of the teachers."""
        sources = self.teacher.sources
        weights = self.teacher.weights or (1.0,) * len(sources)
        return [
            {**source.fingerprint(), "weight": w / sum(weights)}
            for source, w in zip(sources, weights, strict=True)
        ]

    def settings(self, data: SourceData, device: str) -> dict[str, Any]:
        """Return everything that the targets depend on; files by fingerprints of their content."""
        return {
            "teachers": self.identities(),
            "mean": self.teacher.mean,
            "tokens": tokens_checksum(self.tokens),
            "frontend": [frontend(source) for source in self.teacher.sources],
            "taps": {path: asdict(tap) for path, tap in self.taps.items()},
            "data": data.fingerprints(needs_text(self.taps)),
            "device": device,
            **({"quantiser": TRAINED_ON} if any(tap.kind == "codes" for tap in self.taps.values()) else {}),
        }


def plan(args: argparse.Namespace) -> StorePlan:
    """Decide from a training's configuration what a store must contain.

    Raises:
        UserError: the configuration is wrong, needs targets that cannot be stored, or does not fit the
            teachers.
    """
    config = with_teachers(merge_files(args.config), args.teacher or (), args.generation)
    given = dict(config.get("teacher") or {})
    given |= {key: getattr(args, key) for key in ("store", "k") if getattr(args, key) is not None}
    options = teacher_options(given)
    if not options.sources:
        raise UserError("there is no teacher to compute targets with: give --teacher EXP")
    if options.store is None:
        raise UserError("there is no directory for the targets: give --store DIR, or `teacher: {store: DIR}`")
    options = replace(options, sources=tuple(source.located() for source in options.sources))
    terms = term_options(config.get("criteria") or {})
    if not terms:
        raise UserError(
            f"{' + '.join(map(str, args.config))} has no criteria, which decide what is stored: add "
            "`criteria`"
        )
    paths = teacher_taps(terms)
    temperatures = common_temperatures(terms, len(options.sources))
    users = token_users(terms)
    experiments = load(options, users)
    tokens = tokens_of(experiments[0], users[0]) if users else experiments[0].tokens or []
    if users:
        check_k(terms, len(tokens))
    for experiment in experiments:
        refuse_other_prefix(experiment.model, experiment.owner, [t.term for t in terms])
    rate = rate_of(experiments)
    teacher = OnlineTeacher(experiments, paths, temperatures, options.weights, options.mean)
    seen = teacher.targets(*probe(rate))
    longer = teacher.targets(*probe(rate, seconds=LONG_PROBE))
    taps = {path: _tap(path, seen[path].values, terms, options, args, temperatures) for path in paths}
    positions, longest = ({path: int(of[path].lengths.max()) for path in paths} for of in (seen, longer))
    joints = [seen[path].joint for path, tap in taps.items() if tap.kind == "joint"]
    layer = _output_layer(joints[0]) if joints else None
    rate = rate_of_speech(args.data) or rate
    return StorePlan(options, terms, taps, positions, longest, tokens, rate, layer, experiments[0].blank)


def load(
    options: TeacherOptions, users: Sequence[str] = ("the mean of their posteriors",)
) -> list[TeacherModel]:
    """Load the teachers, and check that they have one token list and the same speech as input.

    Args:
        options: name them.
        users: what needs their tokens, if anything does.

    Raises:
        UserError: they differ, or a teacher takes features.
    """
    experiments = [source.load() for source in options.sources]
    first = next((e for e in experiments if e.rate is not None), experiments[0])
    for other in experiments:
        if users:
            check_tokens(tokens_of(experiments[0], users[0]), other, users[0])
        check_rate(first.rate, first.owner, other)
        if other.features is not None:
            raise UserError(
                f"{other.owner} takes features (input_size: {other.features}), but here it would "
                "get waveforms: use it beside the student in training, `teacher: {exp: DIRECTORY}`"
            )
    check_alike(options.sources)
    return experiments


def rate_of(experiments: Sequence[TeacherModel], otherwise: int = DEFAULT_RATE) -> int:
    """Return the sampling rate that the teachers expect, in hertz; ``otherwise`` if none records it."""
    return next((e.rate for e in experiments if e.rate is not None), otherwise)


def _tap(
    path: str,
    values: Any,
    terms: Sequence[TermOptions],
    options: TeacherOptions,
    args: argparse.Namespace,
    temperatures: Mapping[str, float],
) -> TapFormat:
    """Decide how the values of a layer are stored: as top-k classes if that is enough for every criterion."""
    here = [t for t in terms if t.term.teacher_tap == path]
    by_sequence = [t.build().kind == "sequence" for t in here]
    guides = any(t.build().guide_tap == path for t in terms)  # weights of frames need all classes
    # Models of transformers make no tokens of a transcript here: a training does, and needs all classes.
    wordless = bool(options.sources) and not any(source.speech()[1] for source in options.sources)
    if here and all(by_sequence) and not guides and not wordless:
        return TapFormat("score", 1, number="float32")
    k, number, ensemble = options.k, args.number, len(options.sources) > 1
    if path == LATTICE and any(by_sequence):
        return TapFormat("joint", values.enc.shape[-1], number=number)
    if path == LATTICE:
        return _lattice_tap(values, here[0], k, number)
    size = values.shape[-1]
    criteria = [t.build() for t in here]
    by_code = [c.needs == "codes" for c in criteria]
    if any(by_code):
        if not all(by_code):
            other = here[by_code.index(False)].term.name
            raise UserError(
                f"criterion {here[by_code.index(True)].term.name} needs codes of {path}, and {other} the "
                "vectors themselves: choose another layer for one of them, or another store"
            )
        return TapFormat("codes", args.codebooks)
    needed = [c.k for c in criteria]
    softened = {c.temperature for c in criteria if c.temperature is not None}
    # The most probable classes of two frames have no mean.
    whole = guides or None in needed or len(softened) > 1 or any(t.resample for t in here)
    if not here or whole:
        return TapFormat("values", size, 0, temperatures.get(path, 1.0) if ensemble else 1.0, number)
    most = max(n for n in needed if n is not None)
    if k is not None and k < most:
        raise UserError(f"teacher: k is {k}, but a criterion at {path} needs {most} classes: make k larger")
    if most > size:
        raise UserError(
            f"a criterion at {path} needs {most} classes, but the teacher has {size}: make its k smaller"
        )
    return TapFormat("topk", size, min(k or most, size), softened.pop(), number)


def _lattice_tap(values: Joint | OneBestTargets, term: TermOptions, k: int | None, number: Any) -> TapFormat:
    """Decide how a lattice is stored for a criterion's kind.

    `collapsed` and `one_best` have a compact form; all other kinds need the whole lattice, which is stored as
    the projected outputs of encoder and prediction network.
    """
    criterion = term.build()
    size = values.tokens.shape[-1] if isinstance(values, OneBestTargets) else values.classes
    temperature = 1.0 if criterion.temperature is None else criterion.temperature  # each of a lattice has one
    if criterion.kind == "collapsed":
        return TapFormat("collapsed", size, 0, temperature, number)
    if criterion.kind == "one_best":
        return TapFormat("path", size, min(k or PATH_CLASSES, size), temperature, number)
    assert isinstance(values, Joint)  # an ensemble gives a path
    return TapFormat("joint", values.enc.shape[-1], number=number)


def _output_layer(joint: Joint) -> OutputLayer:
    """Take the output layer of a joint network, for the store.

    Raises:
        UserError: the activation is not one that a store can name.
    """
    if not isinstance(joint.activation, str):
        raise UserError(
            f"a joint network with {type(joint.activation).__name__} cannot be stored, only one with tanh: "
            "use the kind collapsed or one_best, or an online teacher"
        )
    weight, bias = (x.detach().float().cpu().numpy() for x in (joint.weight, joint.bias))
    return OutputLayer(weight, bias, joint.activation)


def needs_text(taps: Mapping[str, TapFormat]) -> bool:
    """Return True if the values of a tap depend on the transcript."""
    reads = any(path.split(".")[0] == "decoder" or path == LATTICE for path in taps)
    return reads or any(tap.kind == "score" for tap in taps.values())


def rate_of_speech(places: Sequence[Path]) -> int | None:
    """Return the sampling rate of the first utterance of data directories; None if there is none."""
    for place in places:
        for utt, wav in dump.read_dump(place).absolute():
            return read_speech(wav, utt)[1]
    return None


def frontend(source: Source) -> str:
    """Compute the fingerprint of a teacher's front end and normalisation."""
    config = source.speech()[1]
    return checksum({key: config.get(key) for key in ("frontend", "frontend_conf", "normalize")})
