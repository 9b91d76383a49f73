"""What a recipe does with peers, without training any; all stages with them are in test_csj_recipe.py."""

from pathlib import Path

import pytest
from shell import failure, run, script

KD = ("--kd_config", "conf/mutual.yaml")
STUDENT = "exp/asr_student_mutual_raw_char_sp"
TAG = "decode_asr_model_valid.acc.ave"
# Notes its calls, and knows two peers.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> calls
[ "$3" != peers ] || printf '%s\\n' "$4_peer1" "$4_peer2"
"""


@pytest.fixture()
def mutual(recipe: Path) -> Path:
    (recipe / "conf" / "mutual.yaml").write_text("mutual: {peers: 2}\n")
    return recipe


@pytest.mark.parametrize(
    ("peers", "decoded", "together"),
    [("first", ["1"], False), ("each", ["1", "2"], False), ("ensemble", ["1", "2"], True)],
)
def test_which_peers_are_decoded(mutual: Path, peers: str, decoded: list[str], together: bool) -> None:
    for name in ("wav.scp", "text", "utt2num_samples"):
        script(mutual / "dump/raw/dev" / name, "u 1\n")
    for end in ("", "_peer1", "_peer2", "_ensemble"):
        for name in ("config.yaml", "valid.acc.ave.pth", f"{TAG}/dev/text"):
            script(mutual / f"{STUDENT}{end}" / name, "")
    python = str(script(mutual / "python", PYTHON))
    options = ("--stage", "10", "--stop_stage", "10", "--test_sets", "dev", "--peers", peers)
    output = run(mutual, *KD, *options, "--python", python)
    assert [line for line in output.splitlines() if "already decoded" in line] == [
        f"{STUDENT}_peer{number}/{TAG}/dev: already decoded" for number in decoded
    ]
    calls = [line.split() for line in (mutual / "calls").read_text().splitlines()[2:]]
    calls = [call for call in calls if call[2] != "contents"]  # what has been decoded, by its fingerprint
    assert [call[2] for call in calls] == (["decode-ensemble", "score"] if together else [])
    if together:
        assert " ".join(calls[0]).startswith(
            f"-m espnet_kd decode-ensemble --teacher {STUDENT}_peer1 {STUDENT}_peer2 "
            f"--checkpoint valid.acc.ave.pth --out {STUDENT}_ensemble "
        )


def test_a_model_that_is_not_exported_is_named(mutual: Path) -> None:
    for name in ("wav.scp", "text", "utt2num_samples"):
        script(mutual / "dump/raw/dev" / name, "u 1\n")
    for name in ("config.yaml", "latest.pth"):
        script(mutual / STUDENT / name, "")
    python = str(script(mutual / "python", PYTHON))
    options = ("--stage", "10", "--stop_stage", "10", "--test_sets", "dev", "--python", python)
    errors = failure(mutual, *KD, *options, "--inference_asr_model", "latest.pth")
    assert errors == (
        f"kd.sh: error: there is no {STUDENT}_peer1/latest.pth: "
        "peers have only best and averaged checkpoints; choose one by --inference_asr_model\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--peers", "all"), "--peers all is not each, first or ensemble"),
        (
            ("--peers", "ensemble", "--asr_task", "asr_transducer"),
            "--peers ensemble: transducers cannot be decoded together",
        ),
        (("--generation", "2"), "--kd_config conf/mutual.yaml: mutual learning has no teacher: leave out"),
        (("--kd_config", "a.yaml,conf/mutual.yaml"), "--kd_config a.yaml,conf/mutual.yaml: mutual"),
        (("--unlabelled_sets", "extra"), "--kd_config conf/mutual.yaml: mutual learning has no"),
    ],
)
def test_options_that_do_not_fit(mutual: Path, options: tuple[str, ...], message: str) -> None:
    errors = failure(mutual, *KD, *options)
    assert errors.startswith(f"kd.sh: error: {message}") and errors.count("\n") == 1
