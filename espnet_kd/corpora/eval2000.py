"""Hub5'00 English, the usual test set of Switchboard: 20 calls each of Switchboard and CallHome, licensed.

Layout; LDC2002S09 has the audio and the segments, LDC2002T43 the reference and the rules of scoring::

    .../english/{en_4156,sw_4390,...}.sph      two channels of mu-law, 40 files
    .../english/hub5e_00.pem                   en_4156 A unknown_speaker 301.85 302.48
    .../reference/hub5e00.english.000405.stm   en_4156 A en_4156_A 301.85 302.48 <O,en,F,en-F>  OH YEAH
    .../reference/en20000405_hub5.glm          what counts as the same word
"""

import argparse
import re
from collections.abc import Container, Mapping
from pathlib import Path

from espnet_kd.corpora.datadir import Seconds, Utterance, claimed, write_data_dir
from espnet_kd.corpora.hub5 import WORD, Segment, mended_stm, plain_reference, read_pem, read_stm, widen
from espnet_kd.corpora.recordings import SIDES, Recording, find_files, find_one, find_recordings
from espnet_kd.corpora.tally import Tally, warn
from espnet_kd.errors import UserError

CALLS = 40
AUDIO_NAME = re.compile(r"((?:en|sw)_\d{4})")
PEM, STM, GLM = "hub5e_00.pem", "hub5e00.english.000405.stm", "en20000405_hub5.glm"
MARGIN: Seconds = 0.1


def main(argv: list[str] | None = None) -> None:
    """``prepare eval2000 ROOT [ROOT ...] DST``: DST/eval2000, with ``stm`` and ``glm`` for score-eval2000."""
    parser = argparse.ArgumentParser(prog="espnet-kd prepare eval2000", description=__doc__.splitlines()[0])
    parser.add_argument("roots", nargs="+", type=Path, help="directories of speech and transcripts")
    parser.add_argument("dst", type=Path, help="where the data directory goes")
    args = parser.parse_args(argv)
    files = find_files(args.roots)
    recordings = find_recordings(files, AUDIO_NAME)
    pem, stm, glm = (find_one(files, name, what) for name, what in (
        (PEM, "the segments, of LDC2002S09"), (STM, "the reference, of LDC2002T43"), (GLM, "of LDC2002T43"),
    ))  # fmt: skip
    if not recordings:
        raise UserError("there is no en_NNNN.sph or sw_NNNN.sph below the directories given")
    if len(recordings) != CALLS:
        warn(f"{len(recordings)} calls with {2 * len(recordings)} sides, the corpus has {CALLS}")
    segments = read_pem(pem)
    reference = read_stm(stm)
    check_segments(segments, reference, stm, pem)
    utterances = make_utterances(reference, widen(segments.values(), MARGIN), recordings)
    unheard = {s.call for s in reference.values()} - recordings.keys()
    beside = {"stm": mended_stm(stm, without=unheard).encode("latin-1"), "glm": glm.read_bytes()}
    with claimed(args.dst):
        write_data_dir(args.dst / "eval2000", utterances, beside)
    sides = len({u.speaker for u in utterances})
    print(f"{args.dst / 'eval2000'}: {len(utterances)} utterances, {sides} conversation sides")


def check_segments(
    segments: Mapping[str, Segment], reference: Mapping[str, Segment], stm: Path, pem: Path
) -> None:
    """Warn of segments without a reference.

    Raises:
        UserError: a reference has no segment, so it could not be recognised but would be scored.
    """
    for name, segment in reference.items():
        if name not in segments and not segment.ignored:
            raise UserError(f"{segment.where}: {pem} has no segment with the side and the times of {name}")
    if without := [s for name, s in segments.items() if name not in reference]:
        warn(f"{len(without)} segments are not in {stm} and left out, the first is {without[0].where}")


def make_utterances(
    reference: Mapping[str, Segment],
    times: Mapping[str, tuple[Seconds, Seconds]],
    recordings: Mapping[str, Recording],
) -> list[Utterance]:
    """What is to be recognised; what is left out is printed."""
    dropped, odd = Tally(), Tally()
    utterances = []
    for name, segment in reference.items():
        words = [] if segment.ignored else plain_reference(segment.words)
        heard = words and segment.call in recordings
        span = recordings[segment.call].fit(*times[name]) if heard else None
        if reason := _unfit(segment, words, span, recordings):
            dropped.add(reason, segment.where)
            continue
        for word in words:
            if not WORD.fullmatch(word):
                odd.add(f"words with an unknown mark, {word}", segment.where)
        audio, channel = recordings[segment.call].path, SIDES.index(segment.side)
        text, side = " ".join(words), segment.speaker
        utterances.append(Utterance(name, side, audio, text, side, *span, channel=channel))
    print(f"dropped: {dropped}")
    if odd:
        warn(f"kept all the same: {odd}")
    return utterances


def _unfit(
    segment: Segment, words: list[str], span: tuple[Seconds, Seconds] | None, calls: Container[str]
) -> str | None:
    """Why a segment is no utterance."""
    if segment.ignored:
        return "that are not scored"
    if not words:
        return "without a word that must be recognised"
    if segment.call not in calls:
        return "without audio, left out of stm, too,"
    return "after the end of the audio" if span is None else None
