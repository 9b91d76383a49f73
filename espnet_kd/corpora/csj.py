"""CSJ, the Corpus of Spontaneous Japanese: 3302 talks, 660 hours at 16 kHz, licensed by NINJAL.

Writes train and the three official evaluation sets, and of train the parts that ESPnet's recipe makes:
train_dev, the first 4000 utterances; train_nodev, the others; train_nodup, about 300 of these at most that
have the same text.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.corpora import csj_text, prepare
from espnet_kd.corpora.csj_text import Word, read_sdb, standard_texts
from espnet_kd.corpora.prepare import warn
from espnet_kd.data.datadir import Seconds, Utterance, claimed, write_data_dir
from espnet_kd.errors import UserError

TALK = re.compile(r"[ASDRM]\d\d[FM]\d{4}")  # academic, simulated, dialogue, reading, other; the speaker's sex
SIDES = ("L", "R")
LAYOUTS = {  # folder that tells the layout: transcripts, recordings
    "MORPH/SDB": (("MORPH/SDB/*/*.sdb",), ("WAV/*.wav", "WAV/*/*.wav")),
    "dvd*": (("dvd*/*/*.sdb",), ("dvd*/*/*.wav",)),
}


@dataclass(frozen=True)
class Talk:
    """A talk. ``audio`` is keyed by side, "L" and "R", in a dialogue and by "" otherwise."""

    id: str
    sdb: Path
    audio: dict[str, Path]

    @property
    def dialogue(self) -> bool:
        """True if two people speak, each on a recording of their own."""
        return self.id.startswith("D")


def find_talks(directory: Path) -> list[Talk]:
    """All talks of the corpus at ``directory`` or one level below it, in the order of their ids.

    Raises:
        UserError: there is no corpus, a recording is missing, or a file is there twice.
    """
    for root in (directory, *sorted(directory.glob("*/"))):
        for folder, (transcripts, recordings) in LAYOUTS.items():
            if any(root.glob(folder, case_sensitive=False)):
                sdb, audio = _by_name(root, transcripts), _by_name(root, recordings)
                if sdb:
                    return [_talk(name, path, audio) for name, path in sorted(sdb.items()) if _is_talk(path)]
    raise UserError(
        f"{directory} is not CSJ: neither MORPH/SDB/{{core,noncore}}/*.sdb nor dvd*/*/*.sdb in it or below it"
    )


def _by_name(root: Path, patterns: Iterable[str]) -> dict[str, Path]:
    """Files by their name without suffix, in capital letters."""
    found: dict[str, Path] = {}
    for path in (p for pattern in patterns for p in sorted(root.glob(pattern, case_sensitive=False))):
        if path.name.startswith("."):  # what a Mac leaves behind
            continue
        if (first := found.setdefault(path.stem.upper(), path)) != path:
            raise UserError(f"{path} is there a second time: {first} is the first")
    return found


def _is_talk(path: Path) -> bool:
    if TALK.fullmatch(path.stem.upper()):
        return True
    warn(f"{path} is left alone: its name is not a talk's, such as A01F0055")
    return False


def _talk(name: str, sdb: Path, audio: dict[str, Path]) -> Talk:
    sides = SIDES if name.startswith("D") else ("",)
    files = {side: f"{name}-{side}" if side else name for side in sides}
    for file in files.values():
        if file not in audio:
            raise UserError(f"{sdb}: the recording {file}.wav is missing")
    return Talk(name, sdb, {side: audio[file] for side, file in files.items()})


GAP: Seconds = 0.5
LONGEST: Seconds = 10.0
MASKED = "×"


@dataclass
class Joined:
    """Units in a row of one side."""

    channel: str
    start: Seconds
    end: Seconds
    texts: list[str] = field(default_factory=list)


def join_units(
    words: Sequence[Word],
    texts: Sequence[str],
    dialogue: bool,
    gap: Seconds = GAP,
    longest: Seconds = LONGEST,
) -> Iterator[Joined]:
    """Join units that are at most ``gap`` apart until more than ``longest`` has come together.

    So the unit that takes an utterance beyond ``longest`` belongs to it. Only words that count take part.

    Source:
        Kaldi's csjconnect.pl, which ESPnet uses; the differences of times are rounded as there.
    """
    current: Joined | None = None
    last = None
    for word, text in zip(words, texts, strict=True):
        if not counts(word, text):
            continue
        _, start, end, channel = word.unit
        channel = channel if dialogue else ""
        if current is not None and (word.unit.number, channel) != last:
            apart = start - current.end > gap or current.end - current.start > longest
            if apart or channel != current.channel:
                yield current
                current = None
        if current is None:
            current = Joined(channel, start, end)
        current.end = end
        current.texts.append(text)
        last = (word.unit.number, channel)
    if current is not None:
        yield current


def counts(word: Word, text: str) -> bool:
    """False if a word has no text, or no part of speech: a noise on a line of its own (csj2kaldi4m.pl)."""
    return bool(text and word.word_class)


def make_utterances(
    talk: Talk, joined: Iterable[Joined], dropped: Counter[str], digits: int | None = None
) -> list[Utterance]:
    """The utterances of a talk; what is left out is counted in ``dropped`` by reason.

    Args:
        talk: it gives its name to the utterances, and its side in a dialogue.
        joined: its units.
        dropped: what -> how many.
        digits: significant digits of times; None keeps milliseconds.
    """
    utterances = []
    for j in joined:
        text = "".join(j.texts)
        # Truncated, not rounded, as in ESPnet's ids: 1.001 s is 1000 ms, as 1000 * 1.001 falls short of 1001.
        start, end = int(1000 * j.start), int(1000 * j.end)
        speaker = f"{talk.id}-{j.channel}" if j.channel else talk.id
        if MASKED in text:
            dropped[f"utterances with a masked name ({MASKED})"] += 1
        elif end <= start:
            dropped["utterances that end before they begin"] += 1
        else:
            times = [t / 1000 if digits is None else float(f"{t / 1000:.{digits}g}") for t in (start, end)]
            utterances.append(
                Utterance(
                    f"{speaker}_{start:07d}_{end:07d}", speaker, talk.audio[j.channel], text, speaker, *times
                )
            )
    return utterances


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
    parser = command_parser("prepare csj", __doc__.splitlines()[0])
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
        default=prepare.DEV_UTTERANCES,
        help="in train_dev (default: %(default)s)",
    )
    add("--repetitions", type=int, default=prepare.REPETITIONS, help="in train_nodup (default: %(default)s)")
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
        texts = csj_text.espnet_texts(words)
    dropped["words without a part of speech"] += sum(
        text != "" and not counts(word, text) for word, text in zip(words, texts, strict=True)
    )
    joined = join_units(words, texts, talk.dialogue, rules.gap, rules.longest)
    return make_utterances(talk, joined, dropped, csj_text.TIME_DIGITS if rules.like_espnet else None)


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
    train_dev, train_nodev = prepare.first_utterances(utterances["train"], dev)
    train_nodup = prepare.limit_repetitions(train_nodev, repetitions)
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
