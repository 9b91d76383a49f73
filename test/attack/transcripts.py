"""Parsers of transcripts and lists of corpora."""

from pathlib import Path

import miniature_csj
from miniature import write_an4
from miniature_librispeech import write_librispeech
from miniature_switchboard import DICTIONARY, write_eval2000, write_side
from parsers import SLOW, Target, as_json, directory, file, words, write

from espnet_kd.corpora import an4, eval2000, librilight
from espnet_kd.corpora.csj_text import read_sdb, standard_texts
from espnet_kd.corpora.librispeech import read_part
from espnet_kd.corpora.prepare import Tally
from espnet_kd.corpora.switchboard import read_acronyms, read_line
from espnet_kd.corpora.telephone import Recording, numbered_lines
from espnet_kd.scoring import hub5

SAID = [(0.5, 1.5, ["i", "[laughter-b]", "m-"]), (2.0, 3.5, ["uh", "ibm's", "{x}"])]
ACTIVITY = {"voice_activity": [[0.0, 3.0], [3.5, 59.0]], "speaker": "1"}


def of_corpora(folder: Path) -> dict[str, Target]:
    """Return the parsers of transcripts and lists of corpora."""
    call = Recording(folder / "sw02001.sph", 60.0)
    known = read_acronyms(write(folder / "dict.text", DICTIONARY.encode()))
    write_eval2000(folder / "hub5", utterances=4)
    stm, pem = (next((folder / "hub5").rglob(f"*.{kind}")) for kind in ("stm", "pem"))
    side = write_side(folder / "ldc", 2001, "A", SAID)
    tree = write_an4(folder / "an4")
    lists = {f"etc/{path.name}": path.read_bytes() for path in (tree / "etc").glob("an4_train.*")}
    part = write_librispeech(folder / "LibriSpeech", {"dev-clean": 3}) / "dev-clean"
    chapter = next(part.rglob("*.trans.txt"))
    talk = miniature_csj.sdb("A01F0001", miniature_csj.make_parts(3))
    recording = librilight.BookRecording("a.flac", "a", "a", folder / "a.flac", 60.0)

    def ldc(path: Path) -> object:
        lines = numbered_lines(path)
        return [read_line(where, line, {"sw02001": call}, known, Tally(), Tally()) for where, line in lines]

    def segments(path: Path) -> object:
        found = eval2000.read_stm(path)
        texts = {s.id: eval2000.plain_reference(s.words) for s in found.values()}
        return texts, eval2000.add_margins(found.values(), 0.2), eval2000.repaired_stm(path)

    def activity(path: Path) -> object:
        return librilight.make_cutter(librilight.Cutting("speech", 30.0, 0.1, 0.2), [recording])(recording)

    def damaged(path: Path, parse, where: str = "", share: float = 1.0) -> Target:
        return file(path, parse, path.read_bytes(), where=where, share=share)

    return {
        "CSJ transcript": file(folder / "A01F0001.sdb", lambda p: standard_texts(read_sdb(p), p), talk),
        "Switchboard transcript": damaged(side, ldc, share=SLOW),
        "STM": damaged(stm, segments),
        "PEM": damaged(pem, eval2000.read_pem),
        "ids of a CTM": words(lambda text: hub5.ctm_text({text: "SO {x}"}), b"en_4156-A_000301-000350"),
        "AN4": directory(tree, lists, lambda root: an4.read_set(root, "train"), 2),
        "LibriSpeech transcripts": damaged(chapter, lambda _: read_part(part), "dev-clean", share=0.5),
        "voice activity": file(folder / "a.json", activity, ACTIVITY, text=as_json),
    }
