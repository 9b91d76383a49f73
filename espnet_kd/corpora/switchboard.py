"""Switchboard-1 release 2 (LDC97S62): telephone calls, English, 8 kHz, about 300 hours, licensed.

The audio may be anywhere below the roots, with names in upper or lower case; the transcripts and the
dictionary are those of Mississippi State University (http://www.openslr.org/5), which are downloaded where
the roots have none::

    .../sw02001.sph                                 two channels of mu-law, 2435 files
    swb_ms98_transcriptions/sw-ms98-dict.text       IBM ay b iy eh m
    swb_ms98_transcriptions/20/2001/sw2001{A,B}-ms98-a-trans.text
                                                    sw2001A-ms98-a-0002 0.977625 11.561375 hi um yeah
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase

from espnet_kd.command_line import command_parser
from espnet_kd.corpora.download import download
from espnet_kd.corpora.prepare import (
    DEV_UTTERANCES,
    REPETITIONS,
    Tally,
    first_utterances,
    limit_repetitions,
    warn,
)
from espnet_kd.corpora.telephone import (
    LONGEST_CALL,
    SIDES,
    Recording,
    add_unpacked,
    find_files,
    find_one,
    find_recordings,
    numbered_lines,
)
from espnet_kd.data.datadir import Utterance, hours_of, lock_data_dirs, write_data_dir
from espnet_kd.data.unpack import extract
from espnet_kd.errors import UserError

CALLS = (2435, 2438)  # of the release, without and with the calls that were added later
AUDIO_NAME = re.compile(r"sw0?(\d{4})")
TRANSCRIPT_NAME = re.compile(r"(sw\d{4}[ab])-ms98-a-trans\.text", re.IGNORECASE)
LINE_ID = re.compile(r"sw(\d{4})([AB])-ms98-a-\d{4}")
DICTIONARY = "sw-ms98-dict.text"
# Where ESPnet's recipe gets the transcripts; the second is tried if the first fails.
TRANSCRIPTS = (
    "http://www.openslr.org/resources/5/switchboard_word_alignments.tar.gz",
    "http://www.isip.piconepress.com/projects/switchboard/releases/switchboard_word_alignments.tar.gz",
)
UNPACKED = "switchboard_word_alignments"
NO_TRANSCRIPTS = (
    "there is no swb_ms98_transcriptions/*/*/*-trans.text below the directories given: unpack "
    "switchboard_word_alignments.tar.gz from http://www.openslr.org/5 and give its directory, too"
)

SILENCE = "[silence]"
NOISES = frozenset({"[noise]", "[vocalized-noise]", "[laughter]"})  # kept as words
ASIDE = re.compile(r"<[be]_aside>", re.IGNORECASE)
MARK = re.compile(r"[][{}<>()/\\]|[^ -~]")
# Each is applied once to a word, in this order. Order and patterns are those of Kaldi's swbd1_map_words.pl,
# whose text published results are based on.
WORD_RULES = tuple(
    (re.compile(pattern, flags), replacement)
    for pattern, replacement, flags in (
        (r"^\[laughter-(.+)\](-?)$", r"\1\2", re.IGNORECASE),  # [laughter-story] -> story
        (r"^\[(.+)/.+\](-?)$", r"\1\2", 0),  # [it'n/isn't] -> it'n, the spoken form
        (r"^-?\[[^][]+\](.+)$", r"-\1", 0),  # -[an]y -> -y
        (r"^(.+)\[[^][]+\]-?$", r"\1-", 0),  # ab[solute]- -> ab-
        (r"([^][]+)\[.+\]$", r"\1", 0),  # a mistake of the transcribers: ex[specially]-/especially]
        (r"^\{(.+)\}$", r"\1", 0),  # {yuppiedom} -> yuppiedom
        (r"[a-z]\[([^][])+\][a-z]", r"\1-", re.IGNORECASE),  # ammu[n]it- -> ammn-t-, Kaldi's result
        (r"_\d$", "", 0),  # them_1 -> them
    )
)

SOUNDS = (
    "ey|b iy|s iy|d iy|iy|eh f|jh iy|ey ch|ay|jh ey|k ey|eh l|eh m|eh n|ow|p iy|k y uw|aa r|eh s|t iy|y uw|"
    "v iy|d ah b ax l y uw|eh k s|w ay|z iy"
)
LETTERS = dict(zip(ascii_lowercase, (sound.split() for sound in SOUNDS.split("|")), strict=True))
# Acronyms in whose pronunciation the dictionary lacks the N.
CORRECTED_SOUNDS = {"NAACP": "eh n ey ey s iy p iy", "NIT": "eh n ay t iy", "NTSC": "eh n t iy eh s s iy"}


def main(argv: list[str] | None = None) -> None:
    """Run ``prepare switchboard ROOT [ROOT ...] DST``.

    Writes DST/{train,train_dev,train_nodev,train_nodup}.
    """
    parser = command_parser("prepare switchboard", __doc__.splitlines()[0])
    parser.add_argument("roots", nargs="+", type=Path, help="directories with the audio and the transcripts")
    parser.add_argument("dst", type=Path, help="directory to write the data directories into")
    for option, default, text in (
        ("--dev_utterances", DEV_UTTERANCES, "size of train_dev"),
        ("--repetitions", REPETITIONS, "utterances of one text in train_nodup, about"),
    ):
        parser.add_argument(option, type=int, default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument(
        "--acronyms", help=f"dictionary with acronyms, or `none` (default: {DICTIONARY} below the roots)"
    )
    parser.add_argument(
        "--transcripts",
        nargs="+",
        default=TRANSCRIPTS,
        help="URLs, or an archive, of the transcripts, used where the roots have none (default: %(default)s)",
    )
    parser.add_argument(
        "--downloads",
        type=Path,
        default=Path("downloads"),
        help="directory in which the transcripts are kept and unpacked (default: %(default)s)",
    )
    add_unpacked(parser)
    args = parser.parse_args(argv)
    files = find_files(args.roots)
    if not any(TRANSCRIPT_NAME.fullmatch(path.name) for path in files):
        files += find_files([fetch_transcripts(args.transcripts, args.downloads)])
    acronyms = find_acronyms(files, args.acronyms)
    utterances = read_utterances(files, acronyms, args.unpacked)
    dev, rest = first_utterances(utterances, args.dev_utterances)
    sets = {"train": utterances, "train_dev": dev, "train_nodev": rest}
    sets["train_nodup"] = limit_repetitions(rest, args.repetitions)
    with lock_data_dirs(args.dst):
        for name, members in sets.items():
            write_data_dir(args.dst / name, members)
            sides = f"{len({u.speaker for u in members})} conversation sides"
            print(f"{args.dst / name}: {len(members)} utterances, {sides}, {hours_of(members):.2f} hours")


def fetch_transcripts(sources: Sequence[str], downloads: Path) -> Path:
    """Return the directory of the transcripts; download and unpack the archive if it is not there.

    Args:
        sources: URLs, the first that works is used; or the path of an archive.
        downloads: directory for the archive, and for what it contains.

    Raises:
        UserError: no source works.
    """
    directory = downloads / UNPACKED
    if directory.is_dir():
        return directory
    for number, source in enumerate(sources, 1):
        try:
            archive = download(source, downloads) if "://" in source else Path(source)
            if archive.is_file():
                downloads.mkdir(parents=True, exist_ok=True)
            extract(archive, directory)
            return directory
        except UserError as e:
            if number == len(sources):
                raise UserError(f"{NO_TRANSCRIPTS}; they cannot be fetched: {e}") from None
            warn(f"{e}; trying {sources[number]}")
    raise UserError(NO_TRANSCRIPTS)


def find_acronyms(files: Iterable[Path], option: str | None) -> dict[str, str]:
    """Return the acronyms.

    Args:
        files: of the corpus.
        option: path of a dictionary, "none", or None for the dictionary of the corpus.

    Raises:
        UserError: there is no dictionary.
    """
    if option == "none":
        return {}
    if option is not None:
        return read_acronyms(Path(option))
    what = "in swb_ms98_transcriptions; `--acronyms FILE` names another, `--acronyms none` uses none"
    return read_acronyms(find_one(files, DICTIONARY, what))


def read_acronyms(dictionary: Path) -> dict[str, str]:
    """Read the acronyms of ``sw-ms98-dict.text`` (``IBM ay b iy eh m``), and add the single letters.

    Returns:
        word -> spelling in Fisher's transcripts, such as ``i._b._m.``, ``t._v.s``, ``t._v.'s``.

    Raises:
        UserError: the file has no acronym, so it is not the dictionary.
    """
    acronyms = {}
    for _, line in numbered_lines(dictionary):
        if line.startswith("#"):
            continue
        word, *sounds = line.split()
        word = plain_word(word)
        if word in CORRECTED_SOUNDS:
            sounds = CORRECTED_SOUNDS[word].split()
        if spelled := spell_acronym(word, sounds):
            acronyms[word] = spelled
    if not acronyms:
        raise UserError(
            f"{dictionary} has no word that is pronounced letter by letter: give sw-ms98-dict.text"
        )
    return acronyms | {letter.upper(): f"{letter}." for letter in ascii_lowercase}


def spell_acronym(word: str, sounds: list[str]) -> str | None:
    """Return the spelling of an acronym in Fisher's transcripts; None if the word is not an acronym.

    Args:
        word: may end in s or 's.
        sounds: its pronunciation.
    """
    stem, ending = word, ""
    if word.endswith("s"):
        stem = word[:-2] if word.endswith("'s") else word[:-1]
        ending = word[len(stem) :]
        if not sounds or sounds.pop() not in ("s", "z"):
            return None
    if not stem or any(letter not in LETTERS for letter in stem.lower()):
        return None
    if sounds != [sound for letter in stem.lower() for sound in LETTERS[letter]]:
        return None
    return "._".join(stem.lower()) + "." + ending


def read_utterances(
    files: list[Path], acronyms: Mapping[str, str], unpacked: Path | None = None
) -> list[Utterance]:
    """Read all utterances with words and audio, and print how many lines are left out, by reason.

    Raises:
        UserError: there is no audio or no transcript, or a line is malformed; names file and line.
    """
    recordings = find_recordings(files, AUDIO_NAME, prefix="sw0", unpacked=unpacked)
    if not recordings:
        raise UserError("there is no sw0NNNN.sph below the directories given: give that of LDC97S62")
    if len(recordings) not in CALLS:
        warn(f"{len(recordings)} calls, the corpus has {CALLS[0]}")
    transcripts = find_transcripts(files)
    _warn_of_missing(recordings, transcripts)
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
        warn(f"kept: {odd}")
    if not utterances:
        raise UserError("no utterance has words and audio: check the directories given")
    return list(utterances.values())


def find_transcripts(files: Iterable[Path]) -> dict[str, Path]:
    """Return side, as in ``sw02001-A`` -> transcript.

    Raises:
        UserError: there is none, or one is there twice.
    """
    found: dict[str, Path] = {}
    for path in files:
        if match := TRANSCRIPT_NAME.fullmatch(path.name):
            side = f"sw0{match[1][2:6]}-{match[1][6].upper()}"
            if found.setdefault(side, path) != path:
                raise UserError(f"two transcripts of {side}, {found[side]} and {path}: remove one of them")
    if not found:
        raise UserError(NO_TRANSCRIPTS)
    return dict(sorted(found.items()))


def _warn_of_missing(recordings: Iterable[str], transcripts: Iterable[str]) -> None:
    """Warn of sides of calls that have only audio or only a transcript."""
    expected = {f"{call}-{side}" for call in recordings for side in SIDES}
    for message, sides in (
        ("without transcript", expected - set(transcripts)),
        ("without audio", set(transcripts) - expected),
    ):
        if sides:
            some = " ".join(sorted(sides)[:5]) + (" ..." if len(sides) > 5 else "")
            warn(f"{len(sides)} conversation sides {message}: {some}")


def read_line(
    where: str,
    line: str,
    recordings: Mapping[str, Recording],
    acronyms: Mapping[str, str],
    dropped: Tally,
    odd: Tally,
) -> Utterance | None:
    """Make the utterance of a line of a transcript; return None if it cannot be trained on.

    Args:
        where: file and line.
        line: the line.
        recordings: call -> recording.
        acronyms: see ``normalise``.
        dropped: counts by reason of lines without utterance; updated.
        odd: counts of unusual lines that are kept; updated.
    """
    call, side, start, end, spoken = _parse(where, line)
    words = normalise(spoken, acronyms)
    times = recordings[call].clip(start / 100, end / 100) if call in recordings else None
    if not words or start == end or times is None:
        no_audio = "without audio" if call not in recordings else "after the end of the audio"
        dropped.add("without words" if not words else "of no length" if start == end else no_audio, where)
        return None
    for word in unknown_marks(words):
        odd.add(f"words with an unknown mark, {word}", where)
    if times[1] < end / 100:
        odd.add("utterances that were cut at the end of the audio", where)
    speaker = f"{call}-{side}"
    name = f"{speaker}_{start:06d}-{end:06d}"
    audio, channel = recordings[call].path, SIDES.index(side)
    return Utterance(name, speaker, audio, " ".join(words), speaker, *times, channel=channel)


def _parse(where: str, line: str) -> tuple[str, str, int, int, list[str]]:
    """Split a line into call, side, start and end in hundredths of a second, and words."""
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
    if not 0 <= start <= end < LONGEST_CALL:
        raise UserError(f"{where}: runs from {fields[1]} to {fields[2]} s: 0 <= start <= end is needed")
    return f"sw0{match[1]}", match[2], *hundredths, fields[3:]


def normalise(words: Iterable[str], acronyms: Mapping[str, str]) -> list[str]:
    """Return the words to train on, in lower case, without silence.

    Args:
        words: words of a transcript.
        acronyms: word in the transcript -> spelling in Fisher's transcripts, ``IBM`` -> ``i._b._m.``, which
            becomes ``i b m``.
    """
    spoken = (ASIDE.sub("", word) for word in words if word.lower() != SILENCE)
    plain = [plain_word(word) for word in spoken]
    text = " ".join(acronyms.get(word, word) for word in plain).lower()
    return text.replace("._", " ").replace(".", "").split()


def plain_word(word: str) -> str:
    """Remove the marks of transcription from a word."""
    for pattern, replacement in WORD_RULES:
        word = pattern.sub(replacement, word, count=1)
    return word


def unknown_marks(words: Iterable[str]) -> list[str]:
    """Return the words that still have a bracket, brace, slash or character beyond ASCII."""
    return [word for word in words if MARK.search(word) and word not in NOISES]
