"""The options ``teacher`` and ``criteria``, checked, and whether student and teacher fit each other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from espnet_kd.config import refuse_unknown, with_numbers
from espnet_kd.criteria import CRITERIA, Criterion, build_criterion
from espnet_kd.criteria.criterion import BLANK, check_choice, check_positive, check_size
from espnet_kd.errors import UserError
from espnet_kd.host.models import CTC_PARTS, reads_language, sampling_probability
from espnet_kd.schedule import Schedule, build_schedule
from espnet_kd.teachers.kinds import TEACHERS, Source, kind_of, plugins
from espnet_kd.teachers.model import TeacherModel
from espnet_kd.teachers.online import Mean
from espnet_kd.teachers.short import warn_once
from espnet_kd.teachers.taps import LATTICE, check_of_ctc
from espnet_kd.teachers.token_maps import TokenMap, check_tokens, map_text, map_tokens, tokens_of

ANY_TOKEN = 1  # not the blank


@dataclass(frozen=True)
class Term:
    """One weighted criterion between a tap of the student and a tap of the teacher.

    ``ratio``: teacher frames in a student frame; None where both have the same.
    """

    name: str
    weight: Schedule
    student_tap: str
    teacher_tap: str
    ratio: Fraction | None = None


TEACHER_KEYS = ("exp", "checkpoint", "language", "task", "hf", "revision", "weights", "mean", "store", "k")
TEACHER_OF_KIND = ("checkpoint", "language", "task", "revision")  # of these, options of one kind of teacher
TERM_KEYS = ("type", "weight", "tap", "student_tap", "teacher_tap", "frame_rate")
FRAME_RATES = ("equal", "resample")
COPIES = "init_from_teacher"
# Keys that are often written into a criterion, and where they belong.
MISPLACED = dict.fromkeys(
    ("consistency", COPIES, "nbest", "prefix", "scheduled_sampling", "targets", "task_weight"),
    "write it at the top level of the configuration, beside `criteria`",
) | dict.fromkeys(
    ("hypotheses", "records"),
    "lists of hypotheses are for `nbest: {records: DIRECTORY, hypotheses: 4}`, at the top level of the "
    "configuration",
)
READS_TOKENS = ("decoder", "joint_network", LATTICE)  # first part of the paths of layers that get tokens
OF_SPEECH = ("frontend", "specaug", "normalize", "preencoder", "encoder")  # of layers without tokens


def check_k(terms: Sequence["TermOptions"], classes: int, option: str = "criteria") -> None:
    """Refuse a criterion that keeps more classes than the model has, or is for CTC and at another layer.

    Raises:
        UserError: there is one; names the option that it is in.
    """
    for t in terms:
        if on_lattice(t.kind):  # it cannot be built before `delay: auto` is replaced by a number
            continue
        criterion = t.build()
        check_of_ctc(criterion, t.term.student_tap, t.term.name)
        k = criterion.k
        if k is not None and k > classes:
            raise UserError(f"{option}: {t.term.name}: k is {k}, but the model has {classes} classes")


@dataclass(frozen=True)
class TeacherOptions:
    """The option ``teacher``: which models, or which stored targets.

    Attributes:
        sources: where the models are.
        weights: in the mean of an ensemble; None for equal ones.
        mean: what is averaged.
        store: directory of stored targets, used instead of the teachers.
        k: how many classes the store keeps; None for as many as the criteria need.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...] | None = None
    mean: Mean = "posteriors"
    store: str | None = None
    k: int | None = None


def teacher_options(teacher: Mapping[str, Any]) -> TeacherOptions:
    """Check the option ``teacher``.

    Keys:
        exp (directory or list): trained ESPnet experiment; of a list, the mean of the models is the target.
        checkpoint (file name; the first of the usual averaged models): which model in each directory.
        language (name; eng): what OWSM is asked to recognise.
        task (name; asr): what OWSM is asked to do.
        hf (directory, name of Hugging Face, or list): audio model of transformers.
        revision (name; main): branch, tag or commit of the models of Hugging Face.
        weights (list of numbers; equal): of the teachers in their mean, one for each.
        mean (posteriors or log_posteriors; posteriors): what is averaged.
        store (directory): targets on disk, read instead of running the teachers; with ``exp`` it is
            where to write them.
        k (integer; as many as the criteria need): classes that a store keeps at each position.

    Raises:
        UserError: a key is unknown or its value unusable.
    """
    if not isinstance(teacher, Mapping):
        raise UserError(f"teacher: {teacher!r} is not a mapping; write `teacher: {{exp: DIRECTORY}}`")
    sources = _sources(teacher)
    store = teacher.get("store")
    if not sources and not (isinstance(store, str) and store):
        raise UserError(
            "teacher: exp is missing: give the directory of a trained experiment, `--teacher exp=DIRECTORY`, "
            "a model of Hugging Face, hf=NAME, or store=DIRECTORY of targets"
        )
    weights = with_numbers(teacher.get("weights"))
    try:
        mean = check_choice("mean", teacher.get("mean", "posteriors"), Mean)
        k = None if teacher.get("k") is None else check_size("k", teacher["k"])
    except ValueError as e:
        raise UserError(f"teacher: {e}") from None
    if weights is not None:
        weights = _mean_weights(weights, len(sources))
    return TeacherOptions(sources, weights, mean, store, k)


def _sources(teacher: Mapping[str, Any]) -> tuple[Source, ...]:
    """Return where the models are, in the order of the configuration.

    Raises:
        UserError: a key is unknown, or names no place.
    """
    extra = plugins()
    kinds = {name: kind_of(name) for name in teacher if name in TEACHERS or name in extra}
    allowed = [*TEACHER_KEYS, *extra, *(key for kind in kinds.values() for key in kind.keys)]
    refuse_unknown("teacher", teacher, list(dict.fromkeys(allowed)))
    for key in TEACHER_OF_KIND if kinds else ():
        if teacher.get(key) is not None and not any(key in kind.keys for kind in kinds.values()):
            raise UserError(f"teacher: {key} is no option of {' and '.join(kinds)}: leave it out")
    found = []
    for name, kind in kinds.items():
        places = [teacher[name]] if isinstance(teacher[name], str) else teacher[name]
        if places is None:
            continue
        if not isinstance(places, list) or not all(isinstance(place, str) and place for place in places):
            raise UserError(
                f"teacher: {name} is missing: give a directory or the name of a model, not {teacher[name]!r}"
            )
        options = tuple((key, teacher[key]) for key in kind.keys if teacher.get(key) is not None)
        for key, value in options:
            if not isinstance(value, str):
                raise UserError(f"teacher: {key} is {value!r}, not the name of one")
        found += [Source(name, place, options) for place in places]
    return tuple(found)


def _mean_weights(weights: object, teachers: int) -> tuple[float, ...]:
    try:
        found = tuple(check_positive("weights", w) for w in weights) if isinstance(weights, list) else ()
    except ValueError:
        found = ()
    if not found or len(found) != teachers:
        raise UserError(
            f"teacher: weights is {weights!r}: give one number above 0 for each of {teachers} teachers"
        )
    return found


@dataclass(frozen=True)
class TermOptions:
    """One entry of ``criteria``: the term, and the options of its criterion.

    ``resample``: the teacher's frames are brought to the student's rate; the ratio comes from the models.
    """

    term: Term
    kind: str
    options: dict[str, Any]
    resample: bool = False

    def build(self) -> Criterion:
        """Build the criterion."""
        try:
            return build_criterion(self.kind, **self.options)
        except (ValueError, TypeError) as e:
            raise UserError(f"criteria: {self.term.name}: {e}") from None


def term_options(criteria: Mapping[str, Any]) -> list[TermOptions]:
    """Check the option ``criteria``.

    Keys:
        type (name): which criterion, see below; required.
        weight (number or schedule; 1.0): factor of this term in the loss.
        tap (layer): path of the layer in student and teacher; ``transducer`` needs none.
        student_tap (layer; tap): path in the student, where the two differ.
        teacher_tap (layer; tap): path in the teacher, where the two differ.
        frame_rate (equal or resample; equal): ``resample`` brings the teacher's frames to the student's rate.

    Raises:
        UserError: a key is unknown or its value unusable.
    """
    if not isinstance(criteria, Mapping):
        raise UserError(f"criteria: {criteria!r} is not a mapping: write `NAME: {{type: ..., tap: ...}}`")
    result = []
    for name, entry in criteria.items():
        if not isinstance(entry, Mapping) or "type" not in entry:
            raise UserError(f"criteria: {name}: write `{name}: {{type: ..., weight: ..., tap: ...}}`")
        if not str(name).isidentifier():
            raise UserError(f"criteria: {name!r} is not a name: use letters, digits and _")
        both = entry.get("tap", LATTICE if on_lattice(entry["type"]) else None)
        student, teacher = entry.get("student_tap", both), entry.get("teacher_tap", both)
        if not (student and isinstance(student, str) and teacher and isinstance(teacher, str)):
            raise UserError(
                f"criteria: {name}: give tap, or student_tap and teacher_tap (such as ctc.ctc_lo or decoder)"
            )
        if of_sequence(entry):
            _check_sequence(name, entry, student, teacher)
        else:
            _check_lattice(name, entry, student, teacher)
        weight = build_schedule(entry.get("weight", 1.0), f"criteria: {name}.weight")
        options = {key: with_numbers(value) for key, value in entry.items() if key not in TERM_KEYS}
        for key in options.keys() & MISPLACED.keys() if str(entry["type"]) in CRITERIA else ():
            raise UserError(f"criteria: {name}: {key} is no option of a criterion: {MISPLACED[key]}")
        term = Term(str(name), weight, student, teacher)
        result.append(TermOptions(term, entry["type"], options, _resample(term, entry)))
        if not on_lattice(entry["type"]) and {"delay", "frames"} & options.keys():
            check_of_ctc(result[-1].build(), student, str(name))
    lattices = [t.term.name for t in result if t.term.student_tap == LATTICE]
    if len(lattices) > 1:
        raise UserError(f"criteria: {lattices[0]} and {lattices[1]} are both on the lattice: choose one")
    return result


def _check_lattice(name: str, entry: Mapping[str, Any], student: str, teacher: str) -> None:
    """Refuse taps and options that a criterion on the lattice cannot have, and the lattice for others.

    Raises:
        UserError: type and taps do not fit, or the blank is not that of ESPnet's models.
    """
    taps = {student, teacher}
    if not on_lattice(entry["type"]):
        if LATTICE in taps and entry["type"] in CRITERIA:
            raise UserError(
                f"criteria: {name}: {LATTICE} has a lattice: write `type: transducer`, or choose another tap"
            )
        return
    if taps != {LATTICE}:
        raise UserError(f"criteria: {name}: the type {entry['type']} is on the lattice: leave out its taps")
    if entry.get("blank", BLANK) != BLANK:
        raise UserError(
            f"criteria: {name}: blank is {entry['blank']!r}, but the models have it at token {BLANK}: "
            "leave it out"
        )
    changed = {"mean": "the mean over all nodes of the batch", None: "the sum over the nodes of an utterance"}
    reduction = entry.get("reduction")
    if reduction in changed and not entry.get("normalize"):
        warn_once(  # the options are read more than once
            f"criteria: {name}: reduction {reduction or 'left out'}: {changed[reduction]}; earlier versions "
            "took the mean over the nodes of each utterance: `reduction: utterance` with `normalize: nodes`"
        )


def _check_sequence(name: str, entry: Mapping[str, Any], student: str, teacher: str) -> None:
    """Refuse taps from which no probability of a label sequence comes, and options about frames.

    Raises:
        UserError: a tap is no CTC layer and no lattice, or not that of this type of criterion.
    """
    lattice = on_lattice(entry["type"])
    if lattice != (student == LATTICE):
        way_out = "give tap: ctc.ctc_lo, or `type: transducer` with `kind: sequence`"
        raise UserError(
            f"criteria: {name}: the type {entry['type']} does not compare {student} of the student: "
            f"{'leave out tap and student_tap' if lattice else way_out}"
        )
    if not lattice and student.split(".")[0] not in CTC_PARTS:
        raise UserError(f"criteria: {name}: {student} is no CTC layer of the student: give tap: ctc.ctc_lo")
    if teacher.split(".")[0] == "decoder":
        raise UserError(
            f"criteria: {name}: probabilities of label sequences come from CTC layers and lattices, not from "
            f"{teacher}: give another teacher_tap"
        )
    if "frame_rate" in entry:
        raise UserError(f"criteria: {name}: label sequences have no frames: leave out frame_rate")


def of_sequence(entry: Mapping[str, Any]) -> bool:
    """Return True for a criterion on the probability of whole label sequences."""
    return entry["type"] == "sequence" or (on_lattice(entry["type"]) and entry.get("kind") == "sequence")


def refuse_sequence(t: TermOptions, where: str) -> None:
    """Refuse a criterion on the probability of the labels, where posteriors of one position are compared.

    Args:
        where: begins the message.

    Raises:
        UserError: it is one.
    """
    if t.build().kind == "sequence":
        raise UserError(
            f"{where}: posteriors are compared position by position, and the probability of the labels has "
            "none: use another type, or of a lattice another kind, such as collapsed"
        )


def _resample(term: Term, entry: Mapping[str, Any]) -> bool:
    rate = entry.get("frame_rate", FRAME_RATES[0])
    if rate not in FRAME_RATES:
        raise UserError(f"criteria: {term.name}: frame_rate is {rate!r}; known: {', '.join(FRAME_RATES)}")
    steps = [tap for tap in (term.student_tap, term.teacher_tap) if tap.split(".")[0] in ("decoder", LATTICE)]
    if rate == "resample" and steps:
        raise UserError(f"criteria: {term.name}: `frame_rate: resample` is for frames, not for {steps[0]}")
    return rate == "resample"


def on_lattice(kind: object) -> bool:
    """Return True for a type of criterion whose only tap is the lattice of a transducer."""
    return isinstance(kind, str) and kind in CRITERIA and CRITERIA[kind].needs == "lattice"


def of_speech(t: TermOptions) -> bool:
    """Return whether a criterion of ours takes the student's features or hidden vectors, not its logits."""
    return t.kind in CRITERIA and t.term.student_tap.split(".")[0] in OF_SPEECH


def compares_classes(t: TermOptions) -> bool:
    """Return whether a criterion compares the probability of a class with that of the same class."""
    if on_lattice(t.kind):
        return True
    criterion = t.build()
    return not (criterion.needs in ("hidden", "codes") or criterion.any_classes)


def token_users(terms: Sequence[TermOptions], parts: Iterable[str] = ()) -> list[str]:
    """Return what needs the same tokens in student and teacher: criteria on logits, decoders and lattices.

    Hidden vectors of an encoder are the same whatever the tokens are.

    Args:
        terms: the criteria.
        parts: the submodules that ``init_from_teacher`` copies.
    """
    found = []
    for t in terms:
        if compares_classes(t) or t.term.teacher_tap.split(".")[0] in READS_TOKENS:
            found.append(f"criterion {t.term.name}")
    copied = [path for path in parts if path.split(".")[0] not in OF_SPEECH]
    return found + [f"{COPIES}: {path}" for path in copied]


def fit_tokens(
    tokens: Sequence[str], teacher: TeacherModel, terms: Sequence[TermOptions], parts: Iterable[str]
) -> TokenMap | None:
    """Find the student's tokens in the teacher's list, where something needs them.

    Args:
        tokens: the student's.
        teacher: the teacher.
        terms: the criteria.
        parts: the submodules that ``init_from_teacher`` copies.

    Returns:
        None if the lists are the same, or nothing needs them.

    Raises:
        UserError: the lists cannot be compared, or a part is copied whose tokens differ.
    """
    users = token_users(terms, parts)
    if not users:
        return None
    theirs = tokens_of(teacher, users[0])
    if users[-1].startswith(COPIES):
        check_tokens(tokens, teacher, users[-1])
    logits = {t.term.teacher_tap for t in terms if compares_classes(t)}
    reads = [t for t in terms if t.term.teacher_tap.split(".")[0] in READS_TOKENS]
    reader = f"criterion {reads[0].term.name}" if reads else None
    if not logits and reader is not None:
        return map_text(tokens, theirs, reader, teacher.owner)
    return map_tokens(tokens, theirs, logits, reader, teacher.owner, teacher.blank)


def check_rate(rate: int | None, who: str, teacher: TeacherModel) -> None:
    """Refuse another teacher of an ensemble that takes speech at another sampling rate."""
    if rate is not None and teacher.rate is not None and rate != teacher.rate:
        raise UserError(
            f"{who} takes speech at {rate} Hz, {teacher.owner} at {teacher.rate} Hz: teachers of an ensemble "
            "get the same speech, choose models of one rate"
        )


def refuse_other_prefix(model: nn.Module, owner: str, terms: Sequence[Term]) -> None:
    """Refuse a model whose decoder reads another prefix than the transcript, where a criterion compares it.

    Raises:
        UserError: it samples its own prefix, or begins with the token of a language.
    """
    sides = {t.name: (t.student_tap, t.teacher_tap) for t in terms}
    names = [name for name, taps in sides.items() if any(tap.split(".")[0] == "decoder" for tap in taps)]
    sampled = sampling_probability(model)
    if names and sampled > 0:
        raise UserError(
            f"criterion {names[0]}: the decoder of {owner} reads its own predictions "
            f"(sampling_probability: {sampled}), another prefix than what it is "
            "compared with: set that to 0; Transformer decoders have `scheduled_sampling`"
        )
    if names and reads_language(model):
        raise UserError(
            f"criterion {names[0]}: the decoder of {owner} reads the token of a language first "
            "(lang_token_id), and its positions are others than the transcript's: leave out lang_token_id"
        )


def teacher_taps(terms: Sequence[TermOptions]) -> list[str]:
    """Return the taps of the teacher that the criteria need."""
    guides = [t.build().guide_tap for t in terms]
    return [t.term.teacher_tap for t in terms] + [guide for guide in guides if guide is not None]


def common_temperatures(terms: Sequence[TermOptions], teachers: int) -> dict[str, float]:
    """Return the temperature at each teacher tap; an ensemble's mean needs a single one."""
    result: dict[str, float] = {}
    for t in terms:
        criterion = t.build()
        temperature = criterion.temperature or 1.0
        if teachers > 1 and t.term.teacher_tap == LATTICE and criterion.kind != "one_best":
            raise UserError(
                f"criteria: {t.term.name}: the lattices of several teachers have no mean but along one path: "
                "use `kind: one_best`, or one teacher"
            )
        if teachers > 1 and criterion.needs in ("hidden", "codes"):
            raise UserError(
                f"criteria: {t.term.name}: several teachers have no common hidden space; give one teacher"
            )
        if teachers > 1 and result.get(t.term.teacher_tap, temperature) != temperature:
            raise UserError(
                f"criteria: {t.term.name}: an ensemble needs one temperature for all criteria "
                f"at {t.term.teacher_tap}"
            )
        result[t.term.teacher_tap] = temperature
    return result
