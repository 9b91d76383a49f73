"""Switchboard-1 release 2 (LDC97S62): telephone calls, English, 8 kHz, about 300 hours, licensed.

Layout; the audio lies anywhere, its names in upper or lower case; the transcripts and the dictionary are by
Mississippi State University (http://www.openslr.org/5)::

    .../sw02001.sph                                 two channels of mu-law, 2435 files
    swb_ms98_transcriptions/sw-ms98-dict.text       IBM ay b iy eh m
    swb_ms98_transcriptions/20/2001/sw2001{A,B}-ms98-a-trans.text
                                                    sw2001A-ms98-a-0002 0.977625 11.561375 hi um yeah
"""

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from espnet_kd.corpora.acronyms import read_acronyms
from espnet_kd.corpora.datadir import Utterance, claimed, write_data_dir
from espnet_kd.corpora.hub5 import LONGEST
from espnet_kd.corpora.lines import numbered_lines
from espnet_kd.corpora.recordings import SIDES, Recording, find_files, find_one, find_recordings
from espnet_kd.corpora.splits import DEV_UTTERANCES, REPETITIONS, first_utterances, limit_repetitions
from espnet_kd.corpora.switchboard_text import normalise, unknown_marks
from espnet_kd.corpora.tally import Tally, warn
from espnet_kd.errors import UserError

CALLS = (2435, 2438)  # as distributed, with and without the calls that were added later
AUDIO_NAME = re.compile(r"sw0?(\d{4})")
TRANSCRIPT_NAME = re.compile(r"(sw\d{4}[ab])-ms98-a-trans\.text", re.IGNORECASE)
LINE_ID = re.compile(r"sw(\d{4})([AB])-ms98-a-\d{4}")
DICTIONARY = "sw-ms98-dict.text"


def main(argv: list[str] | None = None) -> None:
    """``prepare switchboard ROOT [ROOT ...] DST``: DST/{train,train_dev,train_nodev,train_nodup}."""
    description = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="espnet-kd prepare switchboard", description=description)
    parser.add_argument("roots", nargs="+", type=Path, help="directories of the audio and the transcripts")
    parser.add_argument("dst", type=Path, help="where the data directories go")
    for option, default, text in (
        ("--dev_utterances", DEV_UTTERANCES, "size of train_dev"),
        ("--repetitions", REPETITIONS, "of a transcript in train_nodup"),
    ):
        parser.add_argument(option, type=int, default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--acronyms", help=f"dictionary, or `none` (default: {DICTIONARY} below the roots)")
    args = parser.parse_args(argv)
    files = find_files(args.roots)
    acronyms = find_acronyms(files, args.acronyms)
    utterances = read(files, acronyms)
    dev, rest = first_utterances(utterances, args.dev_utterances)
    sets = {"train": utterances, "train_dev": dev, "train_nodev": rest}
    sets["train_nodup"] = limit_repetitions(rest, args.repetitions)
    with claimed(args.dst):
        for name, members in sets.items():
            write_data_dir(args.dst / name, members)
            hours = sum(u.end - u.start for u in members) / 3600
            sides = f"{len({u.speaker for u in members})} conversation sides"
            print(f"{args.dst / name}: {len(members)} utterances, {sides}, {hours:.2f} hours")


def find_acronyms(files: Iterable[Path], option: str | None) -> dict[str, str]:
    """The acronyms by ``--acronyms``: a dictionary's path, ``none``, or nothing for the corpus' own.

    Raises:
        UserError: there is no dictionary.
    """
    if option == "none":
        return {}
    if option is not None:
        return read_acronyms(Path(option))
    what = "in swb_ms98_transcriptions; `--acronyms FILE` names another, `--acronyms none` does without"
    return read_acronyms(find_one(files, DICTIONARY, what))


def read(files: list[Path], acronyms: Mapping[str, str]) -> list[Utterance]:
    """All utterances with words and audio; what is left out is printed.

    Raises:
        UserError: there is no audio or no transcript, or a line is malformed; with file and line.
    """
    recordings = find_recordings(files, AUDIO_NAME, prefix="sw0")
    if not recordings:
        raise UserError("there is no sw0NNNN.sph below the directories given")
    if len(recordings) not in CALLS:
        warn(f"{len(recordings)} calls, the corpus has {CALLS[0]}")
    transcripts = find_transcripts(files)
    _compare(recordings, transcripts)
    dropped, odd = Tally(), Tally()
    utterances: dict[str, Utterance] = {}
    for path in transcripts.values():
        for where, line in numbered_lines(path):
            u = read_line(where, line, recordings, acronyms, dropped, odd)
            if u is not None and u.id in utterances:
                raise UserError(f"{where}: {u.id} occurs a second time")
            if u is not None:
                utterances[u.id] = u
    print(f"dropped: {dropped}")
    if odd:
        warn(f"kept all the same: {odd}")
    if not utterances:
        raise UserError("no utterance is left")
    return list(utterances.values())


def find_transcripts(files: Iterable[Path]) -> dict[str, Path]:
    """The transcripts by side, as in ``sw02001-A``.

    Raises:
        UserError: there is none, or one is there twice.
    """
    found: dict[str, Path] = {}
    for path in files:
        if match := TRANSCRIPT_NAME.fullmatch(path.name):
            side = f"sw0{match[1][2:6]}-{match[1][6].upper()}"
            if found.setdefault(side, path) != path:
                raise UserError(f"two transcripts of {side}, {found[side]} and {path}: hide one")
    if not found:
        raise UserError(
            "there is no swb_ms98_transcriptions/*/*/*-trans.text below the directories given: unpack "
            "switchboard_word_alignments.tar.gz from http://www.openslr.org/5 and give its directory, too"
        )
    return dict(sorted(found.items()))


def read_line(
    where: str,
    line: str,
    recordings: Mapping[str, Recording],
    acronyms: Mapping[str, str],
    dropped: Tally,
    odd: Tally,
) -> Utterance | None:
    """One line of a transcript; None, and a reason in ``dropped``, for what cannot be trained on."""
    call, side, start, end, spoken = _parse(where, line)
    words = normalise(spoken, acronyms)
    times = recordings[call].fit(start / 100, end / 100) if call in recordings else None
    if not words or start == end or times is None:
        no_audio = "without audio" if call not in recordings else "after the end of the audio"
        dropped.add("without words" if not words else "of no length" if start == end else no_audio, where)
        return None
    for word in unknown_marks(words):
        odd.add(f"words with a mark that no rule covers, {word}", where)
    if times[1] < end / 100:
        odd.add("utterances that were cut to the end of the audio", where)
    speaker = f"{call}-{side}"
    name = f"{speaker}_{start:06d}-{end:06d}"
    audio, channel = recordings[call].path, SIDES.index(side)
    return Utterance(name, speaker, audio, " ".join(words), speaker, *times, channel=channel)


def _parse(where: str, line: str) -> tuple[str, str, int, int, list[str]]:
    """Call, side, start and end in hundredths of a second, words."""
    fields = line.split()
    match = LINE_ID.fullmatch(fields[0])
    if match is None or len(fields) < 3:
        form = "sw2001A-ms98-a-0001 START END WORDS"
        raise UserError(f"{where}: expected `{form}`, not {line.strip()[:60]!r}")
    try:
        start, end = (float(time) for time in fields[1:3])
        hundredths = int(100 * start + 0.5), int(100 * end + 0.5)
    except (ValueError, OverflowError):
        raise UserError(f"{where}: {fields[1]} and {fields[2]} are not times in seconds") from None
    if not 0 <= start <= end < LONGEST:
        raise UserError(f"{where}: runs from {fields[1]} to {fields[2]} s: 0 <= start <= end is needed")
    return f"sw0{match[1]}", match[2], *hundredths, fields[3:]


def _compare(recordings: Iterable[str], transcripts: Iterable[str]) -> None:
    """Warn of calls that have audio or transcripts only, and of sides that were not transcribed."""
    expected = {f"{call}-{side}" for call in recordings for side in SIDES}
    for message, sides in (
        ("without transcript", expected - set(transcripts)),
        ("without audio", set(transcripts) - expected),
    ):
        if sides:
            some = " ".join(sorted(sides)[:5]) + (" ..." if len(sides) > 5 else "")
            warn(f"{len(sides)} conversation sides {message}: {some}")
