"""AN4, the CMU census database: 948 train and 130 test utterances of 84 speakers at 16 kHz.

Layout, in the .wav distribution (https://github.com/cmusphinx/an4) and in the older .sph one that
ESPnet's recipe takes::

    an4/etc/an4_{train,test}.fileids        an4_clstk/fash/an251-fash-b
    an4/etc/an4_{train,test}.transcription  <s> YES </s> (an251-fash-b)
    an4/wav/{an4_clstk,an4test_clstk}/<speaker>/<utterance>.{wav,sph}

A speaker's name is f or m, for the sex, and initials. A 2 at the end tells two persons with the same initials
apart: the names, telephone numbers and dates of birth that the 84 speakers say or spell show 84 persons.
"""

import re
from collections import Counter
from collections.abc import Collection
from os.path import isfile
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.corpora.download import download, file_sha256, verify
from espnet_kd.corpora.prepare import split_evenly, warn
from espnet_kd.data.datadir import Utterance, lock_data_dirs, write_data_dir
from espnet_kd.data.unpack import extract
from espnet_kd.errors import UserError
from espnet_kd.files import read_lines

DEFAULT_URL = "https://huggingface.co/datasets/espnet/an4/resolve/main/an4_sphere.tar.gz"
OTHER_URL = "https://github.com/cmusphinx/an4/archive/refs/heads/master.tar.gz"
KNOWN_SHA256 = {
    "3a46ba6344adba46816f2de5b36be00fceeccc1f3c5968e8f9778ea3970be65d": "the .wav distribution",
}
LARGEST = 2 << 30  # bytes of an archive; it has 64 MB
COUNTS = {"train": 948, "test": 130}  # before the dev set is taken from train
DEV_SPEAKERS = "fclc fkai ftal mblb mcsc mdxn mjgk msrb"  # 8 of the 74 training speakers
FOLD_DEV_UTTERANCES = 100  # about as many as these speakers have
SUFFIXES = (".wav", ".sph")
TRANSCRIPT = re.compile(r"(?:<s>)?(?P<words>.*?)(?:</s>)?\s*\((?P<name>[^\s()]+)\)\s*")


def main(argv: list[str] | None = None) -> None:
    """Run ``prepare an4 [SOURCE] DST``, which writes DST/{train,dev,test}."""
    parser = command_parser("prepare an4", __doc__.splitlines()[0])
    parser.add_argument(
        "source",
        nargs="?",
        default=DEFAULT_URL,
        help=f"directory, tarball or URL (default: %(default)s; also {OTHER_URL})",
    )
    parser.add_argument("dst", type=Path, help="directory to write the data directories into")
    parser.add_argument(
        "--downloads",
        type=Path,
        default=Path("downloads"),
        help="directory where archives are kept and unpacked (default: %(default)s)",
    )
    parser.add_argument("--sha256", help="checksum that the archive must have")
    parser.add_argument(
        "--labelled",
        type=int,
        help="also divide the training set by this percentage: 20 writes train_20 and train_rest_80",
    )
    parser.add_argument(
        "--dev_speakers", default=DEV_SPEAKERS, help="speakers of the dev set (default: %(default)s)"
    )
    parser.add_argument(
        "--folds",
        type=int,
        help="also write speaker-disjoint folds of all utterances for cross-validation: 5 writes "
        "train_fold1, dev_fold1, test_fold1 to train_fold5, dev_fold5, test_fold5",
    )
    args = parser.parse_args(argv)
    root = find_root(find_corpus(args.source, args.downloads, args.sha256))
    if args.labelled is not None and not 0 < args.labelled < 100:
        raise UserError(f"--labelled {args.labelled} is not a percentage from 1 to 99")
    with lock_data_dirs(args.dst):
        prepare(root, args.dst, args.dev_speakers.split(), args.labelled, args.folds)


def find_corpus(source: str, downloads: Path, sha256: str | None = None) -> Path:
    """Return the directory of the corpus, from a directory, an archive or the URL of an archive.

    An archive is unpacked once, into a directory below ``downloads`` that is named by its checksum.
    """
    if Path(source).is_dir():
        return Path(source)
    if "://" in source:
        archive = download(source, downloads, sha256, largest=LARGEST)
    elif Path(source).is_file():
        archive = Path(source)
        verify(archive, sha256)
    else:
        raise UserError(f"{source} is not a directory, a file or a URL")
    found = file_sha256(archive)
    print(f"{archive}: SHA-256 {found} ({KNOWN_SHA256.get(found, 'unknown')})")
    directory = downloads / f"an4-{found[:12]}"
    if not directory.is_dir():
        extract(archive, directory)
    return directory


def find_root(directory: Path) -> Path:
    """Return the directory with ``etc`` and ``wav``: ``directory`` or one at most two levels below it.

    Raises:
        UserError: there is none.
    """
    for root in (directory, *sorted(directory.glob("*")), *sorted(directory.glob("*/*"))):
        if (root / "etc" / "an4_train.fileids").is_file():
            return root
    raise UserError(f"{directory} is not AN4: no etc/an4_train.fileids in it or below it")


def prepare(
    root: Path,
    dst: Path,
    dev_speakers: Collection[str],
    labelled: int | None = None,
    folds: int | None = None,
) -> None:
    """Write DST/{train,dev,test} from the AN4 tree at ``root``.

    Args:
        root: directory with ``etc`` and ``wav``.
        dst: directory of the data directories.
        dev_speakers: training speakers that are held out as dev set.
        labelled: percentage of the training utterances that are also written as ``train_<labelled>``, and
            the others as ``train_rest_<100 - labelled>``; None for neither.
        folds: number of folds of all utterances that are also written, see ``make_folds``; None for none.

    Raises:
        UserError: a list is malformed, audio is missing, the sets cannot be made, or DST has folds of another
            number.
    """
    sets = {name: read_set(root, name) for name in COUNTS}
    for name, expected in COUNTS.items():
        if len(sets[name]) != expected:
            warn(f"{root}: {len(sets[name])} {name} utterances, the corpus has {expected}")
    of_folds = {} if folds is None else make_folds(sets["train"] + sets["test"], folds)
    left = {p.name for p in dst.glob("test_fold*")} - set(of_folds)
    if of_folds and left:
        raise UserError(
            f"{dst / min(left)} is of another number of folds than {folds}: remove {dst}/*_fold* and what "
            "was made from them, or write into another directory"
        )
    held_out = choose_dev({u.speaker for u in sets["train"]}, dev_speakers)
    sets["dev"] = [u for u in sets["train"] if u.speaker in held_out]
    sets["train"] = [u for u in sets["train"] if u.speaker not in held_out]
    if labelled is not None:
        names = f"train_{labelled}", f"train_rest_{100 - labelled}"
        sets |= zip(names, split_evenly(sets["train"], labelled), strict=True)
    for name, utterances in (sets | of_folds).items():
        write_data_dir(dst / name, utterances)
        speakers, words = len({u.speaker for u in utterances}), sum(map(_words, utterances))
        print(f"{dst / name}: {len(utterances)} utterances, {speakers} speakers, {words} words")


def make_folds(utterances: Collection[Utterance], number: int) -> dict[str, list[Utterance]]:
    """Divide the speakers into folds for cross-validation.

    Every utterance is in one test set, and no speaker is in two sets of a fold. The speakers of each sex, the
    first letter of their names, are dealt out in turn, those with the most words first: each to the fold with
    the fewest speakers of this sex, of these to the one with the fewest speakers, then the fewest words. The
    development set of a fold has every n-th test speaker of the next fold (of the first, for the last), in
    the order in which they were dealt out; n is such that they have about ``FOLD_DEV_UTTERANCES`` utterances.
    The training set has all other speakers.

    Args:
        utterances: of the whole corpus, in any order; the folds do not depend on it.
        number: of folds.

    Returns:
        ``train_fold1``, ``dev_fold1``, ``test_fold1``, ``train_fold2``, ... and their utterances.

    Raises:
        UserError: an utterance occurs twice, or there are too few speakers for the number of folds.
    """
    words, count = Counter[str](), Counter(u.id for u in utterances)
    if twice := [utt for utt, times in count.items() if times > 1]:
        raise UserError(f"{min(twice)} is in both lists, train and test: --folds needs it in one of them")
    for u in utterances:
        words[u.speaker] += _words(u)
    if number < 2 or number > len(words):
        raise UserError(f"--folds {number}: give a number from 2 to {len(words)}, the number of speakers")
    folds: list[list[str]] = [[] for _ in range(number)]
    for new in sorted(words, key=lambda s: (s[0], -words[s], s)):
        fold = min(folds, key=lambda f: (sum(s[0] == new[0] for s in f), len(f), sum(words[s] for s in f)))
        fold.append(new)
    sets: dict[str, list[Utterance]] = {}
    for index, test in enumerate(folds):
        following = folds[(index + 1) % number]
        step = max(1, round(sum(u.speaker in following for u in utterances) / FOLD_DEV_UTTERANCES))
        dev = following[step // 2 :: step]
        train = [s for s in words if s not in test and s not in dev]
        if not train:
            raise UserError(f"--folds {number} leaves fold {index + 1} no training speaker: give more folds")
        for name, speakers in (("train", train), ("dev", dev), ("test", test)):
            sets[f"{name}_fold{index + 1}"] = [u for u in utterances if u.speaker in speakers]
    return sets


def _words(utterance: Utterance) -> int:
    return len((utterance.text or "").split())


def choose_dev(speakers: Collection[str], dev_speakers: Collection[str]) -> set[str]:
    """Return which of the training speakers are held out: the dev speakers, or else the last tenth.

    Raises:
        UserError: no training speaker would be left.
    """
    chosen = set(dev_speakers) & set(speakers)
    if not chosen:
        chosen = set(sorted(speakers)[-max(1, len(speakers) // 10) :])
        warn(f"no dev speaker in the training set; held out instead: {' '.join(sorted(chosen))}")
    elif missing := set(dev_speakers) - set(speakers):
        warn(f"dev speakers that are not in the training set: {' '.join(sorted(missing))}")
    if not set(speakers) - chosen:
        raise UserError(f"--dev_speakers {' '.join(sorted(chosen))} leaves no training speaker")
    return chosen


def read_set(root: Path, name: str) -> list[Utterance]:
    """Read all utterances of ``train`` or ``test``.

    Raises:
        UserError: a line is malformed, the two lists differ, or audio is missing; with file and line.
    """
    texts = _read_transcription(root / "etc" / f"an4_{name}.transcription")
    path = root / "etc" / f"an4_{name}.fileids"
    utterances: dict[str, Utterance] = {}
    for number, line in enumerate(_lines(path), 1):
        where, parts = f"{path}:{number}", line.strip().split("/")
        if len(parts) != 3 or not all(parts) or ".." in parts:
            raise UserError(f"{where}: expected `<part>/<speaker>/<utterance>`, not {line.strip()[:60]!r}")
        _, speaker, utt = parts
        if utt in utterances:
            raise UserError(f"{where}: {utt} occurs a second time")
        if utt not in texts:
            raise UserError(f"{where}: {utt} has no line in an4_{name}.transcription")
        audio = _find_audio(root / "wav" / Path(*parts), where)
        utterances[utt] = Utterance(f"{speaker}-{utt}", speaker, audio, texts[utt][0])
    for utt, (_, number) in texts.items():
        if utt not in utterances:
            transcripts = root / "etc" / f"an4_{name}.transcription"
            raise UserError(f"{transcripts}:{number}: {utt} is not in {path.name}")
    return list(utterances.values())


def _read_transcription(path: Path) -> dict[str, tuple[str, int]]:
    """Return utterance -> words and line number."""
    texts: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(_lines(path), 1):
        match = TRANSCRIPT.fullmatch(line.strip())
        if match is None:
            found = line.strip()[:60]
            raise UserError(f"{path}:{number}: expected `<s> WORDS </s> (utterance)`, not {found!r}")
        words, name = " ".join(match["words"].split()), match["name"]
        if not words:
            raise UserError(f"{path}:{number}: {name} has an empty transcript: correct or remove it")
        if name in texts:
            raise UserError(f"{path}:{number}: {name} occurs a second time")
        texts[name] = (words, number)
    return texts


def _find_audio(stem: Path, where: str) -> Path:
    for suffix in SUFFIXES:
        if isfile(path := stem.with_name(stem.name + suffix)):  # Path.is_file raises where a path is too long
            return path
    raise UserError(f"{where}: there is no {stem}{{{','.join(SUFFIXES)}}}")


def _lines(path: Path) -> list[str]:
    lines = read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
