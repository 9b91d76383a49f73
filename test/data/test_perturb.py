from pathlib import Path

import pytest
from miniature import contents, write_kaldi

from espnet_kd.data.datadir import read_data_dir
from espnet_kd.data.perturb import main, perturb_tables
from espnet_kd.errors import UserError

FILES = {"wav_scp": "a-1 1.wav\nb-1 2.wav\n", "text": "a-1 YES\nb-1 NO\n", "utt2spk": "a-1 a\nb-1 b\n"}
PIECES = FILES | {"wav_scp": "rec rec.wav\n", "segments": "a-1 rec 0 1.5\nb-1 rec 1.5 2.25\n"}


def perturb(tmp_path: Path, factors: str, files: dict[str, str] = FILES) -> Path:
    main(["--factors", factors, str(write_kaldi(tmp_path / "src", **files)), str(tmp_path / "dst")])
    return tmp_path / "dst"


def test_copies_have_prefixed_ids_and_speakers(tmp_path: Path) -> None:
    dst = perturb(tmp_path, "0.9 1.0")
    assert (dst / "utt2spk").read_text() == "a-1 a\nb-1 b\nsp0.9-a-1 sp0.9-a\nsp0.9-b-1 sp0.9-b\n"
    assert (dst / "wav.scp").read_text() == "a-1 1.wav\nb-1 2.wav\nsp0.9-a-1 1.wav\nsp0.9-b-1 2.wav\n"
    assert (dst / "text").read_text() == "a-1 YES\nb-1 NO\nsp0.9-a-1 YES\nsp0.9-b-1 NO\n"
    assert (dst / "utt2speed").read_text() == "sp0.9-a-1 0.9\nsp0.9-b-1 0.9\n"
    assert (dst / "spk2utt").read_text().endswith("sp0.9-a sp0.9-a-1\nsp0.9-b sp0.9-b-1\n")


def test_only_the_named_speeds_are_there(tmp_path: Path) -> None:
    assert [u.id for u in read_data_dir(perturb(tmp_path, "1.1"))] == ["sp1.1-a-1", "sp1.1-b-1"]


def test_recordings_of_segments_are_prefixed_and_times_stay(tmp_path: Path) -> None:
    dst = perturb(tmp_path, "1.1", PIECES)
    assert (dst / "segments").read_text() == "sp1.1-a-1 sp1.1-rec 0.0 1.5\nsp1.1-b-1 sp1.1-rec 1.5 2.25\n"
    assert (dst / "wav.scp").read_text() == "sp1.1-rec rec.wav\n"


def test_again_gives_the_same_bytes(tmp_path: Path) -> None:
    first = contents(perturb(tmp_path, "0.9 1.0 1.1"))
    assert contents(perturb(tmp_path, "0.9 1.0 1.1")) == first


@pytest.mark.parametrize("factors", ["0.9 0.90", "0", "-1", "1e-9", "fast", "inf", "nan"])
def test_bad_factors(tmp_path: Path, factors: str) -> None:
    with pytest.raises(UserError, match="is not a number from 0.1 to 10, or occurs twice"):
        perturb(tmp_path, factors)


def test_no_factor(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--factors is empty"):
        perturb(tmp_path, " ")


def test_what_is_perturbed_is_not_perturbed_again(tmp_path: Path) -> None:
    dst = perturb(tmp_path, "0.9 1.0")
    with pytest.raises(UserError, match="perturbed already"):
        main([str(dst), str(tmp_path / "more")])
    with pytest.raises(UserError, match="into itself"):
        main([str(dst), str(dst)])


def test_a_copy_with_the_id_of_another_utterance_is_refused(tmp_path: Path) -> None:
    files = {name: f"{table}sp0.9-{table.splitlines()[0]}\n" for name, table in FILES.items()}
    with pytest.raises(UserError, match="would have the name sp0.9-a-1"):
        perturb(tmp_path, "0.9 1.0", files)
    assert not (tmp_path / "dst").exists()


def test_rows_are_lazy_and_sorted(tmp_path: Path) -> None:
    source = read_data_dir(write_kaldi(tmp_path / "src", **FILES))
    rows = perturb_tables(source, ["1.1", "1", "0.9"])["text"]
    assert next(rows) == ("a-1", "YES")
    assert [key for key, _ in rows] == ["b-1", "sp0.9-a-1", "sp0.9-b-1", "sp1.1-a-1", "sp1.1-b-1"]
