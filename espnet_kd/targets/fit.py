"""Open an existing store for a training, and check that it fits."""

import argparse
from collections.abc import Mapping, Sequence

from espnet_kd.data.tables import SortedTable
from espnet_kd.errors import UserError
from espnet_kd.files import table_files
from espnet_kd.targets.format import Manifest, TapFormat, tokens_checksum
from espnet_kd.targets.store import Store
from espnet_kd.targets.teacher import StoredTeacher
from espnet_kd.teachers.options import (
    READS_TOKENS,
    TeacherOptions,
    TermOptions,
    compares_classes,
    token_users,
)
from espnet_kd.teachers.taps import LATTICE
from espnet_kd.teachers.token_maps import TokenMap, map_tokens


def stored_teacher(
    options: TeacherOptions,
    terms: Sequence[TermOptions],
    taps: Sequence[str],
    tokens: Sequence[str],
    rate: int | None,
    args: argparse.Namespace,
) -> StoredTeacher:
    """Open the store that a training's configuration names, and check that it fits.

    Args:
        options: name the store; teachers that they name must be those of the store.
        terms: the criteria of the training.
        taps: module paths of the layers that the criteria need.
        tokens: the student's token list.
        rate: sampling rate that the student expects, in hertz; None if its front end does not record it.
        args: ESPnet's options, which name the utterances.

    Raises:
        UserError: the store does not fit; the message gives the reason.
    """
    if args.input_size is not None:
        raise UserError(
            f"teacher: {options.store} has targets of waveforms, the student takes features "
            f"(input_size: {args.input_size}): give the teacher itself, `teacher: {{exp: DIRECTORY}}`"
        )
    store = Store(str(options.store))
    mapped = map_stored(store.manifest, terms, tokens) if token_users(terms) else None
    needed = tokens if token_users(terms) and mapped is None else None
    problem = mismatch(store.manifest, options, needed) or unserved(store.manifest, terms, taps)
    if problem is None and any(t.resample for t in terms) and not store.manifest.long_probe:
        problem = "they do not say their frame rate, which `frame_rate: resample` needs"
    if problem is None and rate not in (None, store.manifest.rate):
        problem = f"they are of speech at {store.manifest.rate} Hz, the student expects {rate}"
    if problem is not None:
        raise UserError(f"the targets in {store.directory} do not fit: {problem}; make them again")
    _check_utterances(store, args)
    return StoredTeacher(store, taps, mapped)


def map_stored(manifest: Manifest, terms: Sequence[TermOptions], tokens: Sequence[str]) -> TokenMap | None:
    """Find the student's tokens among those of a store; None if the lists are the same or cannot be mapped.

    Posteriors of frames can be mapped: all classes, or the most probable ones of another order.

    Raises:
        UserError: the lists cannot be compared.
    """
    theirs = manifest.token_list
    logits = {t.term.teacher_tap for t in terms if compares_classes(t)}
    frames = all(tap.split(".")[0] not in READS_TOKENS for tap in logits)
    scores = any(tap.kind == "score" for tap in manifest.taps.values())
    if not theirs or list(theirs) == list(tokens) or not frames or LATTICE in manifest.taps or scores:
        return None
    found = map_tokens(tokens, theirs, logits, None, "the teacher of the store", manifest.blank)
    cut = any(manifest.taps[tap].kind == "topk" for tap in logits if tap in manifest.taps)
    if cut and found is not None and found.known < len(theirs):
        raise UserError(
            "the most probable classes are stored, but the teacher has tokens that the student lacks: use a "
            "criterion on all classes, such as `type: kl`, or the teacher itself"
        )
    return found


def mismatch(manifest: Manifest, options: TeacherOptions, tokens: Sequence[str] | None) -> str | None:
    """Say how the teachers or the token list of a store differ from a training's; None if they agree.

    ``tokens`` is None where they may differ.
    """
    if tokens is not None and manifest.tokens != tokens_checksum(tokens):
        return "they are of a teacher with another token list than the student's"
    if not options.sources:
        return None
    if len(options.sources) != len(manifest.teachers):
        return f"they are of {len(manifest.teachers)} teachers, not of {len(options.sources)}"
    for source, teacher in zip(options.sources, manifest.teachers, strict=True):
        found = source.fingerprint()
        for key in found:
            if found[key] != teacher[key]:
                name = teacher["experiment"]
                return f"they are of another teacher, {name}: its {key} differs from {source}'s"
    if len(options.sources) > 1 and manifest.settings["mean"] != options.mean:
        return f"they are the mean of {manifest.settings['mean']}, not of {options.mean}"
    weights = options.weights or (1.0,) * len(options.sources)
    if [w / sum(weights) for w in weights] != [teacher["weight"] for teacher in manifest.teachers]:
        return "their teachers have other weights"
    return None


def unserved(manifest: Manifest, terms: Sequence[TermOptions], taps: Sequence[str]) -> str | None:
    """Say what the criteria need and the store does not have; None if it has all."""
    for path in taps:
        if path not in manifest.taps:
            return f"the store has no targets of the tap {path}, only of {', '.join(manifest.taps)}"
    for t in terms:
        problem = _unserved_term(manifest.taps, t, len(manifest.teachers) > 1, manifest.blank)
        if problem is not None:
            return f"criterion {t.term.name}: {problem}"
    return None


def _unserved_term(
    taps: Mapping[str, TapFormat], t: TermOptions, ensemble: bool, blank: int = 0
) -> str | None:
    """Say what one criterion needs and the store does not have; None if it has all."""
    path, criterion = t.term.teacher_tap, t.build()
    tap = taps[path]
    if criterion.guide_tap is not None and (kind := taps[criterion.guide_tap].kind) != "values":
        return f"the targets at {criterion.guide_tap} have the kind {kind}, which gives no weights of frames"
    if criterion.guide_tap is not None and blank:
        return f"`frame_weights: nonblank` needs the blank at token 0, and they have it at {blank}"
    if criterion.by_blank and blank:
        return f"`frames: {criterion.frames}` needs the blank at token 0, and they have it at {blank}"
    if (tap.kind == "codes") != (criterion.needs == "codes"):
        there = "only codes are" if tap.kind == "codes" else f"no codes but {tap.kind} are"
        return f"{there} stored at {path}: codes are for criteria of type mvq alone"
    if criterion.kind == "sequence":
        if tap.kind == "values" and ensemble and tap.temperature != 1:
            return (
                f"the mean of the teachers at {path} was made at the temperature {tap.temperature}, which "
                "gives no probability of a transcript"
            )
        if tap.kind in ("score", "values", "joint"):
            return None
        return f"the targets at {path} have the kind {tap.kind}, which gives no probability of a transcript"
    if tap.kind == "score":
        return f"only the probabilities of the transcripts are stored at {path}, for label sequences alone"
    softened = tap.kind not in ("values", "joint") or ensemble
    if tap.kind != "joint" and criterion.kind != {"collapsed": "collapsed", "path": "one_best"}.get(tap.kind):
        return f"the targets at {path} have the kind {tap.kind}, but the criterion compares {criterion.kind}"
    if tap.kind == "topk":
        if criterion.k is None:
            return f"only the {tap.k} most probable classes are stored at {path}, for criteria of type topk"
        if t.resample:
            return f"only the {tap.k} most probable classes are stored at {path}, which cannot be resampled"
        if criterion.k > tap.k:
            return f"{tap.k} classes are stored, but the criterion needs {criterion.k} at {path}"
    if softened and criterion.temperature not in (None, tap.temperature):
        return (
            f"the temperature at {path} is {criterion.temperature}, but the targets were made at "
            f"{tap.temperature}"
        )
    return None


def _check_utterances(store: Store, args: argparse.Namespace) -> None:
    """Check that every utterance of training and validation has targets, before the training starts.

    Raises:
        UserError: one has none.
    """
    both = (args.train_data_path_and_name_and_type, args.valid_data_path_and_name_and_type)
    tables = [path for entries in both for path, name, _ in entries if name == "speech"]
    for path in (file for table in tables for file in table_files(table)):
        if (utt := store.missing(SortedTable(path).ids())) is not None:
            raise UserError(
                f"{store.directory} has no targets of utterance {utt} of {path}: it was made of other data; "
                "make it again"
            )
