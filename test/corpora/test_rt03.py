"""RT-03: a test set of calls, whose segments are those of the reference."""

from pathlib import Path

import pytest
from miniature_switchboard import write_rt03

from espnet_kd.corpora import rt03
from espnet_kd.data.datadir import read_data_dir
from espnet_kd.errors import UserError


def prepare(root: Path) -> Path:
    rt03.main([str(root), str(root.parent / "data")])
    return root.parent / "data/rt03"


def test_channels_are_sides_and_segments_have_no_margins(tmp_path: Path) -> None:
    data = prepare(write_rt03(tmp_path / "rt03"))
    found = {u.id: (u.text, u.start, u.end, u.channel) for u in read_data_dir(data)}
    assert found == {
        "fsh_60262-A_000025-000065": ("do think", 0.25, 0.65, 0),
        "fsh_60262-B_000050-000110": ("i b m right", 0.5, 1.1, 1),
        "sw_45097-A_000025-000065": ("do think", 0.25, 0.65, 0),
        "sw_45097-B_000050-000110": ("i b m right", 0.5, 1.1, 1),
    }
    stm = (data / "stm").read_text()
    assert "sw_45097 B sw_45097_B 0.50 1.10 <O,SW,F>" in stm and "inter_segment_gap" not in stm
    assert (data / "glm").exists()


def test_a_call_without_audio_is_left_out_of_the_reference(tmp_path: Path) -> None:
    root = write_rt03(tmp_path / "rt03")
    (root / "data/audio/eval03/english/cts/sw_45097.sph").unlink()
    data = prepare(root)
    assert len((data / "text").read_text().splitlines()) == 2
    assert "sw_45097 " not in (data / "stm").read_text()


@pytest.mark.parametrize(
    ("gone", "message"), [("*.sph", r"no eval03/english/cts/sw_NNNNN.sph below"), ("*.stm", r"cts/\*.stm below"),
                          ("*.glm", "there is no en20030506.glm")]
)  # fmt: skip
def test_what_is_missing_is_named(tmp_path: Path, gone: str, message: str) -> None:
    root = write_rt03(tmp_path / "rt03")
    for path in root.rglob(gone):
        path.unlink()
    with pytest.raises(UserError, match=message):
        prepare(root)
    assert not (tmp_path / "data").exists()
