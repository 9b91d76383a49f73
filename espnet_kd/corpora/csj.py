"""CSJ, the Corpus of Spontaneous Japanese: 3302 talks, 660 hours at 16 kHz, licensed by NINJAL.

Writes train, the three official evaluation sets, and the subsets of train that ESPnet's recipe makes:
train_dev has the first 4000 utterances, train_nodev the others, and train_nodup those of train_nodev with
about 300 utterances of the same text at most.
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
from espnet_kd.data.datadir import Seconds, Utterance, lock_data_dirs, write_data_dir
from espnet_kd.errors import UserError

TALK = re.compile(
    r"[ASDRM]\d\d[FM]\d{4}"
)  # academic, simulated, dialogue, reading, other; F or M: sex of the speaker
SIDES = ("L", "R")
LAYOUTS = {  # folder that identifies the layout -> patterns of transcripts, of recordings
    "MORPH/SDB": (("MORPH/SDB/*/*.sdb",), ("WAV/*.wav", "WAV/*/*.wav")),
    "dvd*": (("dvd*/*/*.sdb",), ("dvd*/*/*.wav",)),
}

TALKS = {
    "eval1": "A01M0110 A01M0137 A01M0097 A04M0123 A04M0121 A04M0051 A03M0156 A03M0112 A03M0106 A05M0011",
    "eval2": "A01M0056 A03F0072 A02M0012 A03M0016 A06M0064 A06F0135 A01F0034 A01F0063 A01F0001 A01M0141",
    "eval3": "S00M0112 S00F0066 S00M0213 S00F0019 S00M0079 S01F0105 S00F0152 S00M0070 S00M0008 S00F0148",
    # Other talks of speakers of eval2; ESPnet's recipe trains on the first two by mistake.
    "excluded": "S05M0613 R00M0187 D01M0019 D04M0056 D02M0028 D03M0017",
}
SIZES = {  # utterances and characters, as ESPnet reports them
    "eval1": (1272, 43897), "eval2": (1292, 43623), "eval3": (1385, 28225),
}

GAP: Seconds = 0.5
LONGEST: Seconds = 10.0
MASKED = "×"


@dataclass(frozen=True)
class Rules:
    """Options for making the texts and utterances of a talk.

    Attributes:
        gap: longest pause within an utterance.
        longest: duration from which on nothing is added to an utterance.
        extra_tags: names of tags to delete besides the known ones.
        like_espnet: make the same texts as ESPnet's recipe, see ``csj_text.espnet_texts``.
    """

    gap: Seconds = GAP
    longest: Seconds = LONGEST
    extra_tags: frozenset[str] = frozenset()
    like_espnet: bool = False


@dataclass(frozen=True)
class Talk:
    """Files of a talk.

    Attributes:
        id: as in "A01F0055".
        sdb: its transcript.
        audio: side -> recording; the sides are "L" and "R" in a dialogue, otherwise there is only "".
    """

    id: str
    sdb: Path
    audio: dict[str, Path]

    @property
    def is_dialogue(self) -> bool:
        """True if two people speak, each on a separate recording."""
        return self.id.startswith("D")


@dataclass
class JoinedUnits:
    """Consecutive transcription units of one side, joined to an utterance."""

    channel: str
    start: Seconds
    end: Seconds
    texts: list[str] = field(default_factory=list)


def main(argv: list[str] | None = None) -> None:
    """Run ``prepare csj ROOT DST``.

    Writes DST/{train,train_dev,train_nodev,train_nodup,eval1,eval2,eval3}.
    """
    args = _parser().parse_args(argv)
    sets = {name: " ".join(getattr(args, name)).split() for name in TALKS}
    extra_tags = frozenset(" ".join(args.extra_tags).split())
    rules = Rules(args.gap, args.longest, extra_tags, args.like_espnet)
    talks = find_talks(args.root)
    check_sets(sets, {talk.id for talk in talks}, args.root, args.allow_missing_eval)
    utterances = read_talks(talks, sets, rules)
    check_sizes(utterances, sets)
    with lock_data_dirs(args.dst):
        write_sets(utterances, args.dst, args.dev_utterances, args.repetitions)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("prepare csj", __doc__.splitlines()[0])
    add = parser.add_argument
    add("root", type=Path, help="directory with MORPH and WAV (USB), or with dvd3, dvd4, ... (DVD)")
    add("dst", type=Path, help="directory to write the data directories into")
    add(
        "--like_espnet",
        action="store_true",
        help="write exactly the texts, times and sets of ESPnet's recipe, including its mistakes: no "
        "dialogues, "
        "and some tags (A x;y) replaced by another text",
    )
    add(
        "--dev_utterances",
        type=int,
        default=prepare.DEV_UTTERANCES,
        help="size of train_dev (default: %(default)s)",
    )
    add(
        "--repetitions",
        type=int,
        default=prepare.REPETITIONS,
        help="utterances of one text in train_nodup, about (default: %(default)s)",
    )
    add(
        "--gap",
        type=float,
        default=GAP,
        help="longest pause within an utterance, seconds (default: %(default)s)",
    )
    add(
        "--longest",
        type=float,
        default=LONGEST,
        help="nothing is added to an utterance of more seconds (default: %(default)s)",
    )
    for name, ids in TALKS.items():
        add(f"--{name}", nargs="*", default=[ids], metavar="ID", help=f"talks of {name} (default: {ids})")
    add("--allow_missing_eval", action="store_true", help="accept a corpus that lacks evaluation talks")
    add(
        "--extra_tags",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names of tags to delete besides the known ones",
    )
    return parser


def find_talks(directory: Path) -> list[Talk]:
    """Find all talks of a corpus, in the order of their ids.

    Args:
        directory: of the corpus, or one level above it.

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
    """Return name without suffix, in capital letters -> file."""
    found: dict[str, Path] = {}
    for path in (p for pattern in patterns for p in sorted(root.glob(pattern, case_sensitive=False))):
        if path.name.startswith("."):  # written by macOS
            continue
        if (first := found.setdefault(path.stem.upper(), path)) != path:
            raise UserError(f"{path} is a second copy of {first}: remove one of them")
    return found


def _is_talk(path: Path) -> bool:
    if TALK.fullmatch(path.stem.upper()):
        return True
    warn(f"{path} is ignored: its name is not that of a talk, such as A01F0055")
    return False


def _talk(name: str, sdb: Path, audio: dict[str, Path]) -> Talk:
    sides = SIDES if name.startswith("D") else ("",)
    files = {side: f"{name}-{side}" if side else name for side in sides}
    for file in files.values():
        if file not in audio:
            raise UserError(f"{sdb}: the recording {file}.wav is missing: copy it from the corpus")
    return Talk(name, sdb, {side: audio[file] for side, file in files.items()})


def check_sets(sets: Mapping[str, Sequence[str]], there: set[str], root: Path, allow_missing: bool) -> None:
    """Check that the corpus has all evaluation talks and that no talk is in two sets.

    Args:
        sets: name of a set -> ids of its talks.
        there: ids of the talks of the corpus.
        root: of the corpus, for messages.
        allow_missing: warn of missing evaluation talks instead of refusing them.

    Raises:
        UserError: a talk of an evaluation set is missing, or a talk is in two of ``sets``.
    """
    twice = [id for id, count in Counter(id for ids in sets.values() for id in ids).items() if count > 1]
    if twice:
        raise UserError(
            f"talk {twice[0]} is in more than one of the lists {', '.join(sets)}: leave it in one of them"
        )
    missing = [f"{id} of {name}" for name, ids in sets.items() for id in ids if id not in there]
    missing = [talk for talk in missing if not talk.endswith("excluded")]
    if missing and not allow_missing:
        raise UserError(
            f"{root}: the evaluation talk {missing[0]} is missing, {len(missing)} in all: "
            "copy the whole corpus, or give --allow_missing_eval"
        )
    if missing:
        warn(f"evaluation talks are missing: {', '.join(missing)}")


def read_talks(
    talks: Sequence[Talk], sets: Mapping[str, Sequence[str]], rules: Rules
) -> dict[str, list[Utterance]]:
    """Read the utterances of each set and print how many are left out, by reason.

    Raises:
        UserError: a transcript is malformed; names file and line.
    """
    set_of = {id: name for name, ids in sets.items() for id in ids}
    utterances: dict[str, list[Utterance]] = {"train": [], **{name: [] for name in sets}}
    dropped: Counter[str] = Counter()
    for talk in talks:
        found = read_talk(talk, rules, dropped)
        if rules.like_espnet and talk.is_dialogue:
            dropped["utterances of dialogues, which ESPnet's recipe loses"] += len(found)
        else:
            utterances[set_of.get(talk.id, "train")] += found
    excluded = utterances.pop("excluded")
    dropped["utterances of excluded talks, whose speakers are in the evaluation sets"] += len(excluded)
    for what, count in sorted(dropped.items()):
        print(f"dropped: {count} {what}")
    return utterances


def read_talk(talk: Talk, rules: Rules, dropped: Counter[str]) -> list[Utterance]:
    """Read the utterances of a talk; what is left out is counted in ``dropped``.

    Raises:
        UserError: its transcript is malformed; names file and line.
    """
    words = read_sdb(talk.sdb)
    texts = standard_texts(words, talk.sdb, rules.extra_tags)  # always called: it checks the tags
    if rules.like_espnet:
        texts = csj_text.espnet_texts(words)
    dropped["words without a part of speech"] += sum(
        text != "" and not is_transcribed(word, text) for word, text in zip(words, texts, strict=True)
    )
    joined = join_units(words, texts, talk.is_dialogue, rules.gap, rules.longest)
    return make_utterances(talk, joined, dropped, csj_text.TIME_DIGITS if rules.like_espnet else None)


def join_units(
    words: Sequence[Word],
    texts: Sequence[str],
    dialogue: bool,
    gap: Seconds = GAP,
    longest: Seconds = LONGEST,
) -> Iterator[JoinedUnits]:
    """Join units that are at most ``gap`` apart, until an utterance is longer than ``longest``.

    The unit that takes an utterance beyond ``longest`` is its last one. Words for which ``is_transcribed`` is
    False are skipped.

    Args:
        words: of one talk.
        texts: text of each word.
        dialogue: True if the sides of the units are kept apart.
        gap: longest pause within an utterance.
        longest: duration from which on nothing is added.

    Source:
        Kaldi's csjconnect.pl, which ESPnet uses; times are compared with the same rounding.
    """
    current: JoinedUnits | None = None
    last = None
    for word, text in zip(words, texts, strict=True):
        if not is_transcribed(word, text):
            continue
        _, start, end, channel = word.unit
        channel = channel if dialogue else ""
        if current is not None and (word.unit.number, channel) != last:
            apart = start - current.end > gap or current.end - current.start > longest
            if apart or channel != current.channel:
                yield current
                current = None
        if current is None:
            current = JoinedUnits(channel, start, end)
        current.end = end
        current.texts.append(text)
        last = (word.unit.number, channel)
    if current is not None:
        yield current


def is_transcribed(word: Word, text: str) -> bool:
    """Return False if a word has no text, or no part of speech, as noises have (csj2kaldi4m.pl)."""
    return bool(text and word.word_class)


def make_utterances(
    talk: Talk, joined: Iterable[JoinedUnits], dropped: Counter[str], digits: int | None = None
) -> list[Utterance]:
    """Make the utterances of a talk.

    Args:
        talk: its id, and in a dialogue the side, become the speaker.
        joined: joined units of the talk.
        dropped: counts by reason of what is left out; updated.
        digits: significant digits of times; None keeps milliseconds.
    """
    utterances = []
    for j in joined:
        text = "".join(j.texts)
        # Truncated as in ESPnet's ids: 1.001 s becomes 1000 ms, because 1000 * 1.001 is below 1001 in floats.
        start, end = int(1000 * j.start), int(1000 * j.end)
        speaker = f"{talk.id}-{j.channel}" if j.channel else talk.id
        if MASKED in text:
            dropped[f"utterances with a masked name ({MASKED})"] += 1
        elif end <= start:
            dropped["utterances that end before they begin"] += 1
        else:
            times = [t / 1000 if digits is None else float(f"{t / 1000:.{digits}g}") for t in (start, end)]
            name, audio = f"{speaker}_{start:07d}_{end:07d}", talk.audio[j.channel]
            utterances.append(Utterance(name, speaker, audio, text, speaker, times[0], times[1]))
    return utterances


def check_sizes(utterances: Mapping[str, Sequence[Utterance]], sets: Mapping[str, Sequence[str]]) -> None:
    """Warn if a complete evaluation set has another number of utterances than ESPnet reports."""
    for name, (number, characters) in SIZES.items():
        found = utterances[name]
        whole = sets[name] == TALKS[name].split() and {u.speaker for u in found} == set(sets[name])
        if whole and len(found) != number:
            warn(
                f"{name} has {len(found)} utterances and {_characters(found)} characters; "
                f"ESPnet reports {number} and {characters}"
            )


def _characters(utterances: Iterable[Utterance]) -> int:
    return sum(len(u.text or "") for u in utterances)


def write_sets(utterances: Mapping[str, list[Utterance]], dst: Path, dev: int, repetitions: int) -> None:
    """Write a data directory for each set and each subset of train.

    Args:
        utterances: set -> its utterances.
        dst: directory to write into.
        dev: size of train_dev.
        repetitions: utterances of one text in train_nodup, about.

    Raises:
        UserError: a set would be empty, but an earlier run has written it.
    """
    train_dev, train_nodev = prepare.first_utterances(utterances["train"], dev)
    train_nodup = prepare.limit_repetitions(train_nodev, repetitions)
    parts = {"train_dev": train_dev, "train_nodev": train_nodev, "train_nodup": train_nodup}
    everything = {**utterances, **parts}
    for name, found in everything.items():
        if not found and (dst / name).exists():
            raise UserError(f"{dst / name} was written by an earlier run and would be empty now: remove it")
    for name, found in everything.items():
        if not found:
            warn(f"{dst / name} is not written: it would be empty")
            continue
        write_data_dir(dst / name, found)
        speakers, characters = len({u.speaker for u in found}), _characters(found)
        print(f"{dst / name}: {len(found)} utterances, {characters} characters, {speakers} speakers")
    print(f"dropped from train_nodup: {len(train_nodev) - len(train_nodup)} repetitions of frequent texts")
