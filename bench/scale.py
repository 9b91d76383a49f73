"""Measure time and peak memory of commands on a million utterances (some minutes, 3 GB of disk)."""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.report import table, verdict

UTTERANCES = 1_000_000
WORDS, WRONG = (3, 15), 0.1  # words per utterance; share of wrong words in a hypothesis
# The peak memory of a process includes that of the process that starts it: so a small one starts it.
STARTER = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
LIMITS = {"score": (120, 1.5), "mix": (120, 1.0), "perturb": (120, 1.0)}  # seconds, GB


def main(utterances: int = UTTERANCES) -> bool:
    """Write two dump directories, run each command on them; return True within the limits."""
    rows, verdicts = [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for seed, name in enumerate(("labelled", "pseudo")):
            write(root / name, utterances, seed)
        for name, options in commands(root).items():
            seconds, gigabytes = measured([sys.executable, "-m", "espnet_kd", name, *map(str, options)])
            rows.append([name, f"{seconds:.0f}", f"{gigabytes:.2f}"])
            verdicts.append(verdict(f"{name}: seconds", seconds, at_most=LIMITS[name][0]))
            verdicts.append(verdict(f"{name}: GB", gigabytes, at_most=LIMITS[name][1]))
    print(f"{utterances} utterances of {WORDS[0]} to {WORDS[1]} words; mix: as many pseudo-labelled ones\n")
    print(table(["command", "seconds", "peak GB"], rows) + "\n")
    print("\n".join(line for line, _ in verdicts))
    return all(met for _, met in verdicts)


def commands(root: Path) -> dict[str, list[object]]:
    """Return the options of each command."""
    tokens = ["--token_type", "char", "--token_list", root / "labelled" / "tokens.txt"]
    data = ["--labelled", root / "labelled", "--pseudo", root / "pseudo"]
    text = root / "labelled" / "text"
    return {
        "score": ["--ref", text, "--hyp", root / "labelled" / "hypothesis", "--out", root / "score"],
        "mix": [*data, *tokens, root / "mix"],
        "perturb": [root / "labelled", root / "perturbed"],
    }


def write(path: Path, utterances: int, seed: int) -> None:
    """Write a formatted directory without audio, hypotheses for it, and other files for ``mix``."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    path.mkdir()
    (path / "manifest.json").write_text('{"decoded": null, "kept": null, "references": null}')
    (path / "tokens.txt").write_text("<blank>\n<unk>\n<space>\na\n<sos/eos>\n")
    names = ("wav.scp", "text", "utt2spk", "utt2num_samples", "hypothesis")
    tables = {name: (path / name).open("w") for name in names}
    for i in range(utterances):
        speaker = f"speaker{i // 400:06d}"
        text = rng.choices(words, k=rng.randint(*WORDS))
        decoded = [rng.choice(words) if rng.random() < WRONG else word for word in text]
        audio = f"dump/raw/train/data/{speaker}/{i:08d}.flac"
        values = (audio, " ".join(text), speaker, 80000, " ".join(decoded))
        for name, value in zip(names, values, strict=True):
            tables[name].write(f"{speaker}-{i:08d} {value}\n")
    for file in tables.values():
        file.close()


def measured(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and peak gigabytes."""
    started = time.perf_counter()
    process = subprocess.run([sys.executable, "-I", "-c", STARTER, *command], stdout=subprocess.PIPE)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - started, int(process.stdout) * 1024 / 1e9
