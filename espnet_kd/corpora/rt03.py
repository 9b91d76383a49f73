"""RT-03, English conversational telephone speech (LDC2007S10): Switchboard and Fisher calls, licensed, a test set.

The layout is that which ESPnet's recipe for Switchboard expects::

    data/audio/eval03/english/cts/{sw_45097,fsh_60262,...}.sph     two channels of mu-law
    data/references/eval03/english/cts/*.stm                       sw_45097 1 sw_45097_A 12.30 14.10 <O,SW,M> OH YEAH
    data/trans_rules/en20030506.glm                                rules of equal words

Segments are those of the reference, without margins, as there. Channels 1 and 2 are sides A and B.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from espnet_kd.command_line import command_parser
from espnet_kd.corpora.eval2000 import COMMENT, make_utterances, parse_stm, repaired
from espnet_kd.corpora.telephone import (
    SIDES,
    add_unpacked,
    find_files,
    find_one,
    find_recordings,
    numbered_lines,
)
from espnet_kd.data.datadir import lock_data_dirs, write_data_dir
from espnet_kd.errors import UserError

AUDIO_NAME = re.compile(r"((?:sw|fsh)_\d{5})")
PLACE, GLM = ("eval03", "english", "cts"), "en20030506.glm"
GAP = "inter_segment_gap"


def main(argv: list[str] | None = None) -> None:
    """Run ``prepare rt03 ROOT [ROOT ...] DST``.

    Writes DST/rt03, with ``stm`` and ``glm`` for ``espnet-kd score-eval2000``.
    """
    parser = command_parser("prepare rt03", __doc__.splitlines()[0])
    parser.add_argument("roots", nargs="+", type=Path, help="directories of LDC2007S10")
    parser.add_argument("dst", type=Path, help="directory to write rt03 into")
    add_unpacked(parser)
    args = parser.parse_args(argv)
    files = find_files(args.roots)
    here = [path for path in files if all(part in path.parts for part in PLACE)]
    recordings = find_recordings(here, AUDIO_NAME, unpacked=args.unpacked)
    references = [path for path in here if path.suffix.lower() == ".stm"]
    if not recordings or not references:
        missing = "sw_NNNNN.sph" if not recordings else "*.stm"
        raise UserError(f"there is no eval03/english/cts/{missing} below the directories given: give LDC2007S10")
    lines = [line for path in references for line in sided(numbered_lines(path))]
    reference = parse_stm(lines)
    times = {name: (segment.start, segment.end) for name, segment in reference.items()}
    utterances = make_utterances(reference, times, recordings)
    if not utterances:
        raise UserError(f"{references[0]} has no segment with words and audio: give all of LDC2007S10")
    without = {segment.call for segment in reference.values()} - recordings.keys()
    extra_files = {
        "stm": repaired((line for _, line in lines), without).encode("latin-1"),
        "glm": find_one(files, GLM, "of LDC2007S10").read_bytes(),
    }
    with lock_data_dirs(args.dst):
        write_data_dir(args.dst / "rt03", utterances, extra_files)
    sides = len({u.speaker for u in utterances})
    print(f"{args.dst / 'rt03'}: {len(utterances)} utterances, {sides} conversation sides")


def sided(lines: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Yield the lines of an STM with sides for channels, 1 and 2, and without gaps between segments."""
    for where, line in lines:
        fields = line.split(None, 2)
        if line.lstrip().startswith(COMMENT):
            yield where, line
        elif GAP not in line:
            if len(fields) == 3 and fields[1] in ("1", "2"):
                line = f"{fields[0]} {SIDES[int(fields[1]) - 1]} {fields[2]}"
            yield where, line
