"""NIST's ``hubscr.pl``, the official scorer of Hub5, from SCTK (Debian package ``sctk``)."""

import re
import shutil
import subprocess
from pathlib import Path

from jiwer import AlignmentChunk

from espnet_kd.errors import UserError
from espnet_kd.recipe.alignment import Aligned, Counts

DEBIAN = Path("/usr/lib/sctk/bin/hubscr.pl")  # not in the PATH there
OPTIONS = "-V -l english -h hub5 -g glm -r stm hyp.ctm"
REPORT = "hyp.ctm.filt.sgml"
PATH = re.compile(r'<PATH id="\((?P<id>[^)"]*)\)".*>\n(?P<tokens>.*)\n</PATH>')
TOKEN = re.compile(r'(?P<mark>[CSDI]),(?:"(?P<ref>[^"]*)")?,(?:"(?P<hyp>[^"]*)")?,[^:]*')
TYPES = {"C": "equal", "S": "substitute", "D": "delete", "I": "insert"}
TOTAL = re.compile(r"Percent Total Error.*?\(\s*(\d+)\).*?Ref\. words\s*=\s*\(\s*(\d+)\)", re.DOTALL)


def find() -> Path | None:
    """Where hubscr.pl is, None if it is not installed."""
    found = shutil.which("hubscr.pl")
    return Path(found) if found else DEBIAN if DEBIAN.is_file() else None


def run(hubscr: Path, directory: Path) -> dict[str, Aligned]:
    """Score ``hyp.ctm`` in a directory against ``stm`` by the rules of ``glm``; the reports lie beside.

    Returns:
        Alignment by segment, ``en_4156_a-000``; optional words that were not said are hits, as NIST counts.

    Raises:
        UserError: it fails; with its last words.
    """
    command = [str(hubscr), "-p", str(hubscr.parent), *OPTIONS.split()]
    try:
        with (directory / "hubscr.log").open("w") as log:
            status = subprocess.run(command, cwd=directory, stdout=log, stderr=log).returncode
    except OSError as e:
        raise UserError(f"{hubscr} does not run: {e.strerror}") from None
    if status or not (directory / REPORT).is_file():
        lines = (directory / "hubscr.log").read_text(errors="replace").split("\n")
        said = next((line for line in lines if line.startswith("Error")), lines[-1])
        raise UserError(f"{hubscr} failed with status {status}: {said}; `--scorer jiwer` does without it")
    aligned = read_report((directory / REPORT).read_text(encoding="latin-1"))
    _check((directory / "hyp.ctm.filt.dtl").read_text(encoding="latin-1"), aligned)
    return aligned


def read_report(text: str) -> dict[str, Aligned]:
    """The alignments in an SGML report of sclite, by segment."""
    return {path["id"]: _aligned(path["tokens"]) for path in PATH.finditer(text)}


def _aligned(tokens: str) -> Aligned:
    """A line such as ``C,"yes","yes",0.1+0.2:D,"i",,:C,"(th-)","",0.0+0.0:I,,"uh",0.3+0.4``."""
    reference: list[str] = []
    hypothesis: list[str] = []
    chunks = []
    for token in TOKEN.finditer(tokens):
        before = len(reference), len(hypothesis)
        if token["mark"] != "I":
            reference.append(token["ref"] or "")
        if token["mark"] != "D":
            hypothesis.append(token["hyp"] or "")
        bounds = (before[0], len(reference), before[1], len(hypothesis))
        chunks.append(AlignmentChunk(TYPES[token["mark"]], *bounds))
    return Aligned(reference, hypothesis, chunks)


def _check(summary: str, aligned: dict[str, Aligned]) -> None:
    """Our reading of the alignments must give the scorer's own totals."""
    total = sum((a.counts for a in aligned.values()), Counts())
    match = TOTAL.search(summary)
    if match is None or (int(match[1]), int(match[2])) != (total.errors, total.reference):
        theirs = f"{match[1]}/{match[2]}" if match else "nothing"
        ours = f"{total.errors}/{total.reference}"
        raise UserError(f"hubscr.pl counts {theirs}, its alignments add up to {ours}")
