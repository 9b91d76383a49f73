"""Miniature Switchboard-1 and Hub5'00, in the formats in which LDC and Mississippi State distribute them."""

import io
from pathlib import Path

import numpy as np
import soundfile
from miniature import tone

RATE = 8000
# Word as in the transcripts -> the pitch that stands for it, in cycles of a tenth of a second.
VOCABULARY = "yeah uh-huh I IBM right um do [noise] TVs think that's [laughter-so]".split()
# Those of them that a reference of Hub5 writes in another way.
REFERENCE = {
    "[noise]": "<B_ASIDE>",
    "um": "(%HESITATION)",
    "IBM": "I B M",
    "TVs": "T V'S",
    "[laughter-so]": "((SO)",
}
SIDES = (("A", 1.0), ("B", 0.5))  # B is quieter, so that a test can tell the channels apart
DICTIONARY = """ file: $SWB/data/dictionary/sw-ms98-dict.text

A ey
I ay
IBM ay b iy eh m
NAACP eh ey ey s iy p iy
TVs t iy v iy z
a ax
do d uw
right r ay t
so s ow
that's dh ae t s
think th ih ng k
um ah m
uh-huh ah hh ah
yeah y ae
"""
GLM = """;; Hub5'00 English, a small part of the rules
* name "en20000405_hub5.glm"
* desc "mapping rules"
* format = 'NIST1'
* max_nrules = '2000'
* copy_no_hit = 'T'
* case_sensitive = 'F'
;;
UH => %HESITATION / [ ] __ [ ]
UM => %HESITATION / [ ] __ [ ]
I'M => I AM / [ ] __ [ ]
"""
# sclite knows the labels of a segment, <O,en,F,en-F>, by these comments.
LABELS = """;; CATEGORY "0" "" ""
;; LABEL "O" "Overall" "The Aggregate Test Set"
;; CATEGORY "1" "Corpus" ""
;; LABEL "EN" "Callhome" "Callhome conversations"
;; LABEL "SW" "Switchboard" "Switchboard conversations"
;; CATEGORY "2" "Sex" ""
;; LABEL "F" "Female" "Female Caller"
;; LABEL "M" "Male" "Male Caller"
;; CATEGORY "3" "Corpus/Sex" ""
;; LABEL "EN-F" "Callhome Female" "Callhome Female Caller"
;; LABEL "EN-M" "Callhome Male" "Callhome Male Caller"
;; LABEL "SW-F" "Switchboard Female" "Switchboard Female Caller"
;; LABEL "SW-M" "Switchboard Male" "Switchboard Male Caller"
"""


def sphere_call(samples: np.ndarray, name: str, coding: str = "ulaw") -> bytes:
    """A NIST SPHERE file of a call.

    Args:
        samples: (N, 2) int16, interleaved and coded as mu-law.
        name: of the call, a number.
        coding: as the header has it.
    """
    raw = io.BytesIO()
    soundfile.write(raw, samples, RATE, "ULAW", format="RAW")
    fields = [
        "NIST_1A",
        "   1024",
        f"conversation_id -s{len(name)} {name}",
        "database_id -s13 SWITCHBOARD-1",
        "channel_count -i 2",
        f"sample_coding -s{len(coding)} {coding}",
        "channels_interleaved -s4 TRUE",
        f"sample_count -i {len(samples)}",
        f"sample_rate -i {RATE}",
        "sample_n_bytes -i 1",
        "end_head",
    ]
    return "\n".join([*fields, ""]).encode().ljust(1024) + raw.getvalue()


def speech(words: list[str], seconds: float) -> np.ndarray:
    """(N,) float, a tone for each word, all of one length."""
    samples = round(seconds * RATE)
    per_word = samples // max(len(words), 1)
    pieces = [
        tone(per_word, (30 + 12 * VOCABULARY.index(w)) * per_word / 800) for w in words if w in VOCABULARY
    ]
    signal = np.concatenate([*pieces, np.zeros(samples, np.int16)])[:samples]
    return signal.astype(float)


def write_call(path: Path, sides: list[list[tuple[float, float, list[str]]]], name: str) -> None:
    """The audio of two sides, each (start, end, words) in order; half a second of silence at the end."""
    length = round((max(end for side in sides for _, end, _ in side) + 0.5) * RATE)
    signal = np.zeros((length, 2))
    for channel, side in enumerate(sides):
        for start, end, words in side:
            piece = speech(words, end - start) * SIDES[channel][1]
            first = round(start * RATE)
            signal[first : first + len(piece), channel] = piece
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sphere_call(np.rint(signal).astype(np.int16), name))


def turns(rng: np.random.Generator, count: int) -> list[tuple[float, float, list[str]]]:
    """Utterances of one side with pauses between them."""
    now, made = 0.25, []
    for _ in range(count):
        words = list(rng.choice(VOCABULARY, rng.integers(2, 6)))
        end = now + 0.2 * len(words)
        made.append((now, end, words))
        now = end + 0.3125
    return made


def write_switchboard(root: Path, utterances: int = 16, per_side: int = 4) -> Path:
    """A tree of that many utterances, and of silences between them; the last call may be shorter."""
    rng = np.random.default_rng(0)
    calls = -(-utterances // (2 * per_side))
    left = utterances
    for number in range(2001, 2001 + calls):
        share = min(left, 2 * per_side)
        left -= share
        sides = [turns(rng, -(-share // 2)), turns(rng, share // 2 or 1)]
        disc = root / f"LDC97S62/swb1_d{1 + number % 2}/data"
        write_call(disc / (f"sw0{number}.sph" if number % 2 else f"SW0{number}.SPH"), sides, str(number))
        for (side, _), said in zip(SIDES, sides, strict=True):
            write_side(root, number, side, said)
    (root / "swb_ms98_transcriptions/sw-ms98-dict.text").write_text(DICTIONARY)
    (root / "swb_ms98_transcriptions/AAREADME.text").write_text("Mississippi State transcriptions\n")
    return root


def write_side(root: Path, number: int, side: str, said: list[tuple[float, float, list[str]]]) -> Path:
    """The transcript of one side, and the word times that lie beside it."""
    path = root / f"swb_ms98_transcriptions/{str(number)[:2]}/{number}/sw{number}{side}-ms98-a-trans.text"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, before = [], 0.0
    for start, end, words in said:
        rows += [(before, start, "[silence]"), (start, end, " ".join(words))]
        before = end
    lines = [
        f"sw{number}{side}-ms98-a-{i:04d} {a:.6f} {b:.6f} {text}\n" for i, (a, b, text) in enumerate(rows, 1)
    ]
    path.write_text("".join(lines))
    path.with_name(path.name.replace("trans", "word")).write_text(lines[0])
    return path


def write_rt03(root: Path) -> Path:
    """RT-03 with a call of Switchboard and one of Fisher, an utterance on each side, and a gap."""
    audio, reference = (root / "data" / kind / "eval03/english/cts" for kind in ("audio", "references"))
    rules = root / "data/trans_rules"
    for directory in (audio, reference, rules):
        directory.mkdir(parents=True)
    for name in ("sw_45097", "fsh_60262"):
        sides = [[(0.25, 0.65, ["do", "think"])], [(0.5, 1.1, ["um", "IBM", "right"])]]
        write_call(audio / f"{name}.sph", sides, name)
        lines = [f"{name} 1 inter_segment_gap 0.00 0.25 <O,,>"]
        for channel, side in enumerate(sides, 1):
            for start, end, words in side:
                text = " ".join(REFERENCE.get(word, word) for word in words).upper()
                lines.append(f"{name} {channel} {name}_{'AB'[channel - 1]} {start:.2f} {end:.2f} <O,SW,F>  {text}")
        (reference / f"{name}.stm").write_text("\n".join([*LABELS.splitlines(), *lines]) + "\n")
    (rules / "en20030506.glm").write_text(GLM)
    return root


def write_eval2000(root: Path, utterances: int = 8, per_side: int = 2) -> Path:
    """Both packages of Hub5'00 English with that many utterances, and a segment that is not scored."""
    rng = np.random.default_rng(1)
    speech_dir = root / "LDC2002S09/hub5e_00/english"
    reference = root / "LDC2002T43/2000_hub5_eng_eval_tr/reference"
    reference.mkdir(parents=True)
    pem, stm, left = [";; unpartitioned evaluation map"], LABELS.splitlines(), utterances
    names = [f"{part}_{number}" for number in range(4156, 4176) for part in ("en", "sw")]
    for name in names[: -(-utterances // (2 * per_side))]:
        share = min(left, 2 * per_side)
        left -= share
        sides = [turns(rng, -(-share // 2)), turns(rng, share // 2 or 1)]
        write_call(speech_dir / f"{name}.sph", sides, name)
        for (side, _), said in zip(SIDES, sides, strict=True):
            for start, end, words in said:
                pem.append(f"{name} {side} unknown_speaker {start:.2f} {end:.2f}")
                text = " ".join(REFERENCE.get(word, word) for word in words).upper()
                label = f"<O,{name[:2]},F,{name[:2]}-F>"
                stm.append(f"{name} {side} {name}_{side} {start:.2f} {end:.2f} {label}  {text} (TH-)")
    end = float(pem[-1].split()[-1])
    pem.append(f"{pem[-1][:9]} unknown_speaker {end + 0.1:.2f} {end + 0.3:.2f}")
    stm.append(
        f"{stm[-1][:9]} inter_segment_gap {end + 0.1:.2f} {end + 0.3:.2f} <O,,,> "
        "IGNORE_TIME_SEGMENT_IN_SCORING"
    )
    (speech_dir / "hub5e_00.pem").write_text("\n".join(pem) + "\n")
    (reference / "hub5e00.english.000405.stm").write_text("\n".join(stm) + "\n")
    (reference / "en20000405_hub5.glm").write_text(GLM)
    return root
