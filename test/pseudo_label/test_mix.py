"""Labelled and pseudo-labelled speech in one training set."""

import json
import shutil
from pathlib import Path

import pytest
from miniature import contents, write_kaldi

from espnet_kd.data.dump import are_hypotheses
from espnet_kd.errors import UserError
from espnet_kd.pseudo_label.mix import copy_of, main

RATE = 16000


def dump(path: Path, seconds: dict[str, int], text: str = "ONE TWO") -> Path:
    """A formatted directory; an utterance's speaker is the part before the hyphen."""
    return write_kaldi(
        path,
        wav_scp="".join(f"{u} {path.name}/{u}.flac\n" for u in seconds),
        text="".join(f"{u} {text}\n" for u in seconds),
        utt2spk="".join(f"{u} {u.split('-')[0]}\n" for u in seconds),
        utt2num_samples="".join(f"{u} {n * RATE}\n" for u, n in seconds.items()),
        feats_type="raw\n",
    )


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Ten seconds with transcripts in two utterances, twenty with pseudo-labels in four."""
    labelled = dump(tmp_path / "train", {"a-1": 5, "b-1": 5})
    pseudo = dump(tmp_path / "unlabelled", {f"c-{i}": 5 for i in range(4)}, "SIX")
    part = {"hours": 1.0, "utterances": 4}
    manifest = {"decoded": part, "kept": part, "references": None, "filters": []}
    (pseudo / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "tokens.txt").write_text("\n".join(["<blank>", "<unk>", *"ONETWSIX", "<space>", "<sos/eos>"]))
    return labelled, pseudo


def mix(sets: tuple[Path, Path], *options: str) -> Path:
    root = sets[0].parent
    tokens = ("--token_type", "char", "--token_list", str(root / "tokens.txt"))
    main(["--labelled", str(sets[0]), "--pseudo", str(sets[1]), *tokens, *options, str(root / "mix")])
    return root / "mix"


def utterances(path: Path) -> list[str]:
    return [line.split()[0] for line in (path / "wav.scp").read_text().splitlines()]


def test_all_of_both_once(sets: tuple[Path, Path]) -> None:
    path = mix(sets)
    assert utterances(path) == ["a-1", "b-1", *(f"pseudo-c-{i}" for i in range(4))]
    assert (path / "utt2spk").read_text().splitlines()[-1] == "pseudo-c-3 pseudo-c"
    assert (path / "wav.scp").read_text().splitlines()[-1] == "pseudo-c-3 unlabelled/c-3.flac"
    assert (path / "speech_shape").read_text().splitlines()[0] == "a-1 80000"
    # seven letters with the space, three letters; twelve tokens
    shapes = (path / "text_shape.char").read_text().splitlines()
    assert (shapes[0], shapes[-1]) == ("a-1 7,12", "pseudo-c-3 3,12")


@pytest.mark.parametrize(
    ("share", "labelled", "pseudo"),
    [
        ("0.5", 4, 4),  # 20 s against 20 s: each labelled utterance twice
        ("0.4", 6, 4),  # 30 s are needed: three times
        ("0.9", 2, 18),  # 90 s are needed: 4.5 times, so two utterances four times and two five times
        ("1", 0, 4),
    ],
)
def test_the_side_that_is_too_small_is_repeated(
    sets: tuple[Path, Path], share: str, labelled: int, pseudo: int
) -> None:
    names = utterances(mix(sets, "--share", share))
    of_pseudo = [name for name in names if name.startswith("pseudo-")]
    assert (len(names) - len(of_pseudo), len(of_pseudo)) == (labelled, pseudo)


def test_copies_have_names_and_speakers_of_their_own(sets: tuple[Path, Path]) -> None:
    path = mix(sets, "--share", "0.9")
    lines = (path / "utt2spk").read_text().splitlines()
    assert "pseudo-copy2-c-0 pseudo-copy2-c" in lines
    assert lines == sorted(lines)
    path = mix(sets, "--share", "0.5")
    assert "copy2-a-1 copy2-a" in (path / "utt2spk").read_text()


def test_the_record_says_where_it_came_from_and_again_gives_the_same(sets: tuple[Path, Path]) -> None:
    options = ("--share", "0.5", "--generation", "2", "--teacher", "exp/t")
    path = mix(sets, *options)
    record = json.loads((path / "mix.json").read_text())
    assert (record["generation"], record["teacher"], record["labelled"]["times"]) == (2, "exp/t", 2.0)
    assert record["pseudo"][0]["kept"]["hours"] == 1.0
    before = contents(path)
    assert contents(mix(sets, *options)) == before
    (sets[1] / "text").write_text((sets[1] / "text").read_text().replace("SIX", "TWO"))
    assert json.loads((mix(sets, *options) / "mix.json").read_text())["text"] != record["text"]


def test_what_does_not_fit_is_refused(sets: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="--share 90 must be above 0 and at most 1"):
        mix(sets, "--share", "90")
    with pytest.raises(UserError, match="c-0 is in another of the unlabelled sets"):
        twice = shutil.copytree(sets[1], sets[1].with_name("again"))
        mix(sets, "--pseudo", str(sets[1]), str(twice), "--fs", "16k")
    with pytest.raises(UserError, match="pseudo-c-0 is a pseudo-label: give speech with transcripts"):
        mix((mix(sets), sets[1]))


def test_a_pseudo_label_stays_one_at_another_speed_and_as_a_copy() -> None:
    names = ["pseudo-a-1", "sp0.9-pseudo-a-1", "pseudo-copy2-a-1", "sp1.1-pseudo-copy2-a-1"]
    assert are_hypotheses([*names, *(copy_of(name, 3) for name in names)]) == [True] * 8
    assert are_hypotheses(["a-1", "sp0.9-a-1", "copy2-a-1", "a-pseudo-1", "spud-pseudo-1"]) == [False] * 5
