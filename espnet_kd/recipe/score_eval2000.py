"""``python -m espnet_kd score-eval2000``: the official WER of Hub5'00, by NIST's hubscr.pl if it is there.

Without it, jiwer counts after the same simple filter: no rules of equal words (GLM), no optional words, so
the numbers cannot be compared with published ones. Scores of Switchboard, CallHome and both lie beside the
decoded set, as those of sets of their own: DIR_swbd, DIR_callhm, DIR_all.
"""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

from espnet_kd.errors import UserError
from espnet_kd.files import atomic_dir, read_table
from espnet_kd.recipe import ctm, hubscr, scores
from espnet_kd.recipe.alignment import Aligned, align, join
from espnet_kd.recipe.score import summary

SCORERS = ("auto", "hubscr", "jiwer")
SUBSETS = {"swbd": "sw_", "callhm": "en_", "all": ""}  # by the first letters of a call


def main(argv: list[str] | None = None) -> None:
    """``score-eval2000 --data data/eval2000 DIR``."""
    p = argparse.ArgumentParser(prog="espnet-kd score-eval2000", description=__doc__)
    p.add_argument("dir", type=Path, help="decoded set: its `text` is scored")
    p.add_argument("--data", type=Path, required=True, help="what `prepare eval2000` made: text, stm, glm")
    p.add_argument("--scorer", choices=SCORERS, default=SCORERS[0], help="default: %(default)s")
    p.add_argument("--hubscr", type=Path, help="hubscr.pl (default: in the PATH, or Debian's)")
    args = p.parse_args(argv)
    reference, hypothesis = read_table(args.data / "text"), read_table(args.dir / "text")
    join(reference, hypothesis, args.data / "text", args.dir / "text")
    if program := find_scorer(args.scorer, args.hubscr):
        words = by_hubscr(program, args.data, hypothesis, args.dir.with_name(args.dir.name + "_hubscr"))
        print(f"scored by {program} (NIST SCTK), with stm and glm of {args.data}")
    else:
        words = by_jiwer(reference, hypothesis)
        print("scored by jiwer, not comparable with published numbers: no hubscr.pl (Debian package sctk)")
    texts = [spoken(a) for a in words.values()]
    characters = align([left for left, _ in texts], [right for _, right in texts], "character")
    aligned = {"wer": words, "cer": dict(zip(words, characters, strict=True))}
    for subset, prefix in SUBSETS.items():
        utterances = [utt for utt in words if utt.startswith(prefix)]
        if any(words[utt].reference for utt in utterances):
            out = args.dir.with_name(f"{args.dir.name}_{subset}")
            part = {kind: {utt: rows[utt].counts for utt in utterances} for kind, rows in aligned.items()}
            print(summary(out.name, scores.write(out, part)))


def find_scorer(scorer: str, path: Path | None) -> Path | None:
    """hubscr.pl, or None for jiwer.

    Raises:
        UserError: it is asked for and is not there.
    """
    if scorer == "jiwer":
        return None
    found = path or hubscr.find()
    if found is None and scorer == "hubscr":
        raise UserError("hubscr.pl is not installed: `apt-get install sctk`, --hubscr PATH or --scorer jiwer")
    if found is not None and not found.is_file():
        raise UserError(f"{found} does not exist: it is called hubscr.pl")
    return found


def by_hubscr(program: Path, data: Path, hypothesis: Mapping[str, str], out: Path) -> dict[str, Aligned]:
    """Alignments by segment of the STM; the reports of hubscr.pl lie in ``out``."""
    text = ctm.render(hypothesis)
    with atomic_dir(out) as work:
        (work / "hyp.ctm").write_text(text, encoding="utf-8")
        for name in ("stm", "glm"):
            if not (data / name).is_file():
                raise UserError(f"{data}/{name} does not exist: `prepare eval2000` writes it")
            shutil.copyfile(data / name, work / name)
        return hubscr.run(program.absolute(), work)


def by_jiwer(reference: Mapping[str, str], hypothesis: Mapping[str, str]) -> dict[str, Aligned]:
    """Alignments by utterance, of the words that are scored."""
    left, right = ([ctm.filtered(side[utt]) for utt in reference] for side in (reference, hypothesis))
    return dict(zip(reference, align(left, right, "word"), strict=True))


def spoken(aligned: Aligned) -> tuple[str, str]:
    """Both texts without the optional words, ``(th-)``, of the reference and what was heard for them."""
    pairs = [(left, right) for left, right, _ in aligned.pairs() if not left.startswith("(")]
    left, right = (" ".join(filter(None, side)) for side in zip(*pairs, strict=True)) if pairs else ("", "")
    return left, right


if __name__ == "__main__":
    main()
