"""Check that a store of targets fits a training."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from espnet_kd.errors import UserError
from espnet_kd.files import fingerprint, read_table, table_files
from espnet_kd.store import Manifest, Store, Tap
from espnet_kd.store.manifest import tokens_checksum
from espnet_kd.tasks.options import TeacherOptions, TermOptions
from espnet_kd.teachers.experiment import find_checkpoint
from espnet_kd.teachers.stored import StoredTeacher


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
    problem = misfit(store.manifest, options, tokens) or unserved(store.manifest, terms, taps)
    if problem is None and rate not in (None, store.manifest.rate):
        problem = f"it is of speech at {store.manifest.rate} Hz, the student expects {rate}"
    if problem is not None:
        raise UserError(f"the targets in {store.directory} do not fit: {problem}; make them again")
    _check_utterances(store, args)
    return StoredTeacher(store, taps)


def misfit(manifest: Manifest, options: TeacherOptions, tokens: Sequence[str]) -> str | None:
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
    if tap.kind == "topk" and criterion.k is None:
        return f"only the {tap.k} most probable classes are kept, which serve the type topk alone,"
    if tap.kind == "topk" and criterion.k > tap.k:
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
