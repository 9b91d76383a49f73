"""CSJ, the Corpus of Spontaneous Japanese: 3302 talks, 660 hours at 16 kHz, licensed by NINJAL.

Writes train and the three official evaluation sets, and of train the parts that ESPnet's recipe makes:
train_dev, the first 4000 utterances; train_nodev, the others; train_nodup, about 300 of these at most that
have the same text.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_kd.corpora import csj_espnet, splits
from espnet_kd.corpora.csj_layout import Talk, find_talks
from espnet_kd.corpora.csj_sdb import read_sdb
from espnet_kd.corpora.csj_tags import standard_texts
from espnet_kd.corpora.csj_units import GAP, LONGEST, counts, join_units, make_utterances
from espnet_kd.corpora.datadir import Seconds, Utterance, claimed, write_data_dir
from espnet_kd.corpora.tally import warn
from espnet_kd.errors import UserError

TALKS = {
    "eval1": "A01M0110 A01M0137 A01M0097 A04M0123 A04M0121 A04M0051 A03M0156 A03M0112 A03M0106 A05M0011",
    "eval2": "A01M0056 A03F0072 A02M0012 A03M0016 A06M0064 A06F0135 A01F0034 A01F0063 A01F0001 A01M0141",
    "eval3": "S00M0112 S00F0066 S00M0213 S00F0019 S00M0079 S01F0105 S00F0152 S00M0070 S00M0008 S00F0148",
    # Other talks of a speaker of eval2; ESPnet's recipe lets the first two slip into training.
    "excluded": "S05M0613 R00M0187 D01M0019 D04M0056 D02M0028 D03M0017",
}


SIZES = {"eval1": (1272, 43897), "eval2": (1292, 43623), "eval3": (1385, 28225)}  # as ESPnet reports them


@dataclass(frozen=True)
class Rules:
    """How text and utterances are made of a talk."""

    gap: Seconds = GAP
    longest: Seconds = LONGEST
    extra_tags: frozenset[str] = frozenset()
    like_espnet: bool = False


def main(argv: list[str] | None = None) -> None:
    """``prepare csj ROOT DST``: DST/{train,train_dev,train_nodev,train_nodup,eval1,eval2,eval3}."""
    args = _parser().parse_args(argv)
    sets = {name: " ".join(getattr(args, name)).split() for name in TALKS}
    extra_tags = frozenset(" ".join(args.extra_tags).split())
    rules = Rules(args.gap, args.longest, extra_tags, args.like_espnet)
    talks = find_talks(args.root)
    check_sets(sets, {talk.id for talk in talks}, args.root, args.allow_missing_eval)
    utterances = read_talks(talks, sets, rules)
    check_sizes(utterances, sets)
    with claimed(args.dst):
        write_sets(utterances, args.dst, args.dev_utterances, args.repetitions)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="espnet-kd prepare csj", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("root", type=Path, help="directory of MORPH and WAV (USB), or of dvd3, dvd4, ... (DVD)")
    add("dst", type=Path, help="where the data directories go")
    add(
        "--like_espnet",
        action="store_true",
        help="texts, times and sets equal to those of ESPnet's recipe to the letter, with what happens there "
        "by accident: no dialogues, (A x;y) resolved otherwise now and then",
    )
    add(
        "--dev_utterances",
        type=int,
        default=splits.DEV_UTTERANCES,
        help="in train_dev (default: %(default)s)",
    )
    add("--repetitions", type=int, default=splits.REPETITIONS, help="in train_nodup (default: %(default)s)")
    add("--gap", type=float, default=GAP, help="longest pause in an utterance (default: %(default)s s)")
    add("--longest", type=float, default=LONGEST, help="beyond it nothing is added (default: %(default)s s)")
    for name, ids in TALKS.items():
        add(f"--{name}", nargs="*", default=[ids], metavar="ID", help=f"talks of {name} (default: {ids})")
    add("--allow_missing_eval", action="store_true", help="go on without evaluation talks that are not there")
    add("--extra_tags", nargs="+", default=[], metavar="NAME", help="tags to delete beside the known ones")
    return parser


def check_sets(sets: Mapping[str, Sequence[str]], there: set[str], root: Path, allow_missing: bool) -> None:
    """Refuse a corpus without all evaluation talks, or only warn.

    Raises:
        UserError: a talk of an evaluation set is missing, or is in two of ``sets``.
    """
    twice = [id for id, count in Counter(id for ids in sets.values() for id in ids).items() if count > 1]
    if twice:
        raise UserError(f"talk {twice[0]} is in more than one of the lists {', '.join(sets)}")
    missing = [f"{id} of {name}" for name, ids in sets.items() for id in ids if id not in there]
    missing = [talk for talk in missing if not talk.endswith("excluded")]
    if missing and not allow_missing:
        raise UserError(
            f"{root}: the evaluation talk {missing[0]} is missing, {len(missing)} in all: "
            "get the whole corpus, or give --allow_missing_eval for a part of it"
        )
    if missing:
        warn(f"evaluation talks are missing: {', '.join(missing)}")


def read_talks(
    talks: Sequence[Talk], sets: Mapping[str, Sequence[str]], rules: Rules
) -> dict[str, list[Utterance]]:
    """Utterances by set; prints what is left out, by reason.

    Raises:
        UserError: a file is not as it should be; with file and line.
    """
    set_of = {id: name for name, ids in sets.items() for id in ids}
    utterances: dict[str, list[Utterance]] = {"train": [], **{name: [] for name in sets}}
    dropped: Counter[str] = Counter()
    for talk in talks:
        found = read_talk(talk, rules, dropped)
        if rules.like_espnet and talk.dialogue:
            dropped["utterances of dialogues, which ESPnet's recipe loses"] += len(found)
        else:
            utterances[set_of.get(talk.id, "train")] += found
    excluded = utterances.pop("excluded")
    dropped["utterances of excluded talks, whose speakers are in the evaluation sets"] += len(excluded)
    for what, count in sorted(dropped.items()):
        print(f"dropped: {count} {what}")
    return utterances


def read_talk(talk: Talk, rules: Rules, dropped: Counter[str]) -> list[Utterance]:
    """The utterances of a talk; what is left out is counted in ``dropped``.

    Raises:
        UserError: its file is not as it should be; with file and line.
    """
    words = read_sdb(talk.sdb)
    texts = standard_texts(words, talk.sdb, rules.extra_tags)  # in any case: it finds the mistakes
    if rules.like_espnet:
        texts = csj_espnet.espnet_texts(words)
    dropped["words without a part of speech"] += sum(
        text != "" and not counts(word, text) for word, text in zip(words, texts, strict=True)
    )
    joined = join_units(words, texts, talk.dialogue, rules.gap, rules.longest)
    return make_utterances(talk, joined, dropped, csj_espnet.TIME_DIGITS if rules.like_espnet else None)


def check_sizes(utterances: Mapping[str, Sequence[Utterance]], sets: Mapping[str, Sequence[str]]) -> None:
    """Warn where a whole evaluation set has not the number of utterances that ESPnet reports."""
    for name, (number, characters) in SIZES.items():
        found = utterances[name]
        whole = sets[name] == TALKS[name].split() and {u.speaker for u in found} == set(sets[name])
        if whole and len(found) != number:
            warn(
                f"{name} has {len(found)} utterances and {sum(len(u.text) for u in found)} characters; "
                f"with ESPnet's recipe it has {number} and {characters}"
            )


def write_sets(utterances: Mapping[str, list[Utterance]], dst: Path, dev: int, repetitions: int) -> None:
    """Write a data directory of each set and of the parts of train.

    Raises:
        UserError: a set would be empty, and one of an earlier run is in its place.
    """
    train_dev, train_nodev = splits.first_utterances(utterances["train"], dev)
    train_nodup = splits.limit_repetitions(train_nodev, repetitions)
    parts = {"train_dev": train_dev, "train_nodev": train_nodev, "train_nodup": train_nodup}
    everything = {**utterances, **parts}
    for name, found in everything.items():
        if not found and (dst / name).exists():
            raise UserError(f"{dst / name} is of an earlier run and would have no utterances now: remove it")
    for name, found in everything.items():
        if not found:
            warn(f"{dst / name} is not written: it would have no utterances")
            continue
        write_data_dir(dst / name, found)
        speakers, characters = len({u.speaker for u in found}), sum(len(u.text) for u in found)
        print(f"{dst / name}: {len(found)} utterances, {characters} characters, {speakers} speakers")
    print(f"dropped from train_nodup: {len(train_nodev) - len(train_nodup)} repetitions of frequent texts")
