"""``python -m espnet_kd prepare CORPUS [ROOT ...] DST``: data directories DST/<set> of a corpus."""

import importlib
import sys

from espnet_kd.errors import UserError

CORPORA = {
    "an4": ("espnet_kd.corpora.an4", "CMU AN4 (census), English, 16 kHz, about an hour; public"),
    "librispeech": ("espnet_kd.corpora.librispeech", "LibriSpeech, English, 16 kHz, 1000 hours; public"),
    "librilight": ("espnet_kd.corpora.librilight", "Libri-Light or any tree of flac files, no transcripts"),
    "switchboard": ("espnet_kd.corpora.switchboard", "Switchboard-1 (LDC97S62), English calls; licensed"),
    "eval2000": ("espnet_kd.corpora.eval2000", "Hub5'00 English (LDC2002S09, LDC2002T43); licensed"),
    "csj": ("espnet_kd.corpora.csj", "Corpus of Spontaneous Japanese, 16 kHz, 660 hours; licensed"),
    "digits": ("espnet_kd.corpora.digits", "connected English digits, synthesised on the spot"),
}


def main(argv: list[str] | None = None) -> None:
    """Hand the arguments to the corpus' own ``main(argv)``.

    Raises:
        UserError: no corpus of that name.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:<12} {text}" for name, (_, text) in CORPORA.items()]
        print("\n".join(["usage: python -m espnet_kd prepare CORPUS [ROOT ...] DST [OPTION ...]", *lines]))
    elif argv[0] not in CORPORA:
        raise UserError(f"no corpus {argv[0]!r}: there are {', '.join(CORPORA)}")
    else:
        importlib.import_module(CORPORA[argv[0]][0]).main(argv[1:])
