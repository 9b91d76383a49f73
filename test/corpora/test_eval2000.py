from pathlib import Path

import pytest
from miniature import contents
from miniature_switchboard import write_eval2000

from espnet_kd.corpora import eval2000
from espnet_kd.data.datadir import read_data_dir
from espnet_kd.errors import UserError

PEM = "LDC2002S09/hub5e_00/english/hub5e_00.pem"
STM = "LDC2002T43/2000_hub5_eng_eval_tr/reference/hub5e00.english.000405.stm"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_eval2000(tmp_path / "hub5", utterances=8)


def prepare(root: Path, *roots: Path) -> Path:
    eval2000.main([*map(str, roots or [root]), str(root.parent / "data")])
    return root.parent / "data/eval2000"


def edit(path: Path, old: str, new: str) -> int:
    """Replace it in the first line that has it; returns the number of that line."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return text[: text.index(old)].count("\n") + 1


def test_tables(root: Path) -> None:
    data = prepare(root)
    audio = root / "LDC2002S09/hub5e_00/english"
    assert (data / "wav.scp").read_text().splitlines() == [
        f"{call}-{side} {audio}/{call}.sph" for call in ("en_4156", "sw_4156") for side in "AB"
    ]
    first = next(iter(read_data_dir(data)))
    assert (first.id, first.speaker, first.channel) == ("en_4156-A_000025-000085", "en_4156-A", 0)
    assert (first.start, first.end) == (0.15, 0.95)  # 0.25 to 0.85 s, widened by 0.1
    line = next(line for line in (root / STM).read_text().splitlines() if line.startswith("en_4156 A"))
    assert line.endswith(" <O,en,F,en-F>  DO THINK ((SO) (TH-)") and first.text == "do think so th-"
    assert {u.channel for u in read_data_dir(data) if u.speaker.endswith("-B")} == {1}


def test_stm_and_glm_are_written_into_the_data_directory(root: Path) -> None:
    data = prepare(root)
    assert (data / "glm").read_bytes() == (root / STM).with_name("en20000405_hub5.glm").read_bytes()
    reference = (data / "stm").read_text()
    assert "((" not in reference and "_ASIDE" not in reference
    assert reference.count("\n") == (root / STM).read_text().count("\n")


def test_segments_that_are_not_scored_are_counted(root: Path, capsys: pytest.CaptureFixture) -> None:
    edit(root / STM, "DO THINK ((SO) (TH-)", "(%HESITATION) <B_ASIDE>")
    data = prepare(root)
    out, err = capsys.readouterr()
    assert "1 that are not scored (first: " in out
    assert "1 without a word that must be recognised (first: " in out
    assert f"{data}: 7 utterances, 4 conversation sides\n" in out
    assert err == "warning: 2 calls with 4 sides, the corpus has 40\n"


def test_two_roots_and_a_second_run_give_the_same_bytes(root: Path) -> None:
    first = contents(prepare(root))
    assert contents(prepare(root, root / "LDC2002S09", root / "LDC2002T43")) == first


def test_a_reference_without_a_segment_is_an_error(root: Path) -> None:
    line = edit(root / STM, "en_4156_A 0.25 0.85", "en_4156_A 0.25 0.86")
    with pytest.raises(
        UserError, match=rf"{STM}:{line}: .*{PEM} has no segment .* of en_4156-A_000025-000086"
    ):
        prepare(root)
    assert not (root.parent / "data").exists()


def test_an_ignored_reference_needs_no_segment(root: Path) -> None:
    edit(root / PEM, (root / PEM).read_text().splitlines()[-1] + "\n", "")
    assert len(list(read_data_dir(prepare(root)))) == 8


def test_a_segment_without_a_reference_is_left_out(root: Path, capsys: pytest.CaptureFixture) -> None:
    line = edit(
        root / PEM, "en_4156 A unknown_speaker 0.25 0.85", "en_4156 A x 0.25 0.85\nen_4156 A x 9.00 9.50"
    )
    assert len(list(read_data_dir(prepare(root)))) == 8
    err = capsys.readouterr().err
    assert f"1 segments are not in {root / STM} and are left out, the first is {root / PEM}:{line + 1}" in err


def test_a_call_without_audio_is_left_out_of_the_reference_too(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    (root / "LDC2002S09/hub5e_00/english/sw_4156.sph").unlink()
    data = prepare(root)
    assert "4 without audio, left out of stm, too, (first: " in capsys.readouterr().out
    assert "sw_4156" not in (data / "stm").read_text() + (data / "text").read_text()


def test_an_unknown_mark_is_kept_and_named(root: Path, capsys: pytest.CaptureFixture) -> None:
    line = edit(root / STM, "DO THINK", "DO [THINK]")
    assert "do [think]" in (prepare(root) / "text").read_text()
    assert f"1 words with an unknown mark, [think] (first: {root / STM}:{line})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("hub5e_00.pem", r"there is no hub5e_00.pem: .* \(the segments, of LDC2002S09\)"),
        ("hub5e00.english.000405.stm", r"there is no hub5e00.english.000405.stm: .* of LDC2002T43"),
        ("en20000405_hub5.glm", "there is no en20000405_hub5.glm"),
        ("*.sph", "there is no en_NNNN.sph or sw_NNNN.sph below"),
    ],
)
def test_a_missing_file(root: Path, gone: str, message: str) -> None:
    for path in root.rglob(gone):
        path.unlink()
    with pytest.raises(UserError, match=message):
        prepare(root)
