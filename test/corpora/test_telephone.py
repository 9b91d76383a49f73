import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from miniature_switchboard import sphere_call

from espnet_kd.corpora.telephone import Recording, find_files, find_one, find_recordings
from espnet_kd.errors import UserError

NAME = re.compile(r"sw0?(\d{4})")
STEREO = np.zeros((4000, 2), np.int16)


def call(path: Path, **more: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sphere_call(STEREO, "2001", **more))
    return path


def test_calls_are_found_anywhere_in_upper_and_lower_case(tmp_path: Path) -> None:
    lower = call(tmp_path / "disc1/data/sw02001.sph")
    upper = call(tmp_path / "disc2/SW02002.SPH")
    (tmp_path / "disc2/sw02003.txt").write_text("no audio")
    soundfile.write(tmp_path / "unpacked.wav", STEREO, 8000)
    found = find_recordings(find_files([tmp_path]), NAME, prefix="sw0")
    assert found == {"sw02001": Recording(lower, 0.5), "sw02002": Recording(upper, 0.5)}


def test_a_link_is_followed_and_a_directory_is_searched_once(tmp_path: Path) -> None:
    path = call(tmp_path / "corpus/disc/sw02001.sph")
    (tmp_path / "corpus/disc/again").symlink_to(tmp_path / "corpus")
    (tmp_path / "link").symlink_to(tmp_path / "corpus")
    assert find_files([tmp_path / "corpus", tmp_path / "corpus/disc"]) == [path]
    assert find_files([tmp_path / "link"]) == [tmp_path / "link/disc/sw02001.sph"]


def test_a_root_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is not a directory"):
        find_files([tmp_path / "none"])


def test_a_call_that_was_cut_off(tmp_path: Path) -> None:
    path = call(tmp_path / "sw02001.sph")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="sw02001.sph was cut off, it has 5000 of 9024 bytes"):
        find_recordings([path], NAME)


def test_a_call_that_is_there_twice(tmp_path: Path) -> None:
    call(tmp_path / "a/sw02001.sph")
    call(tmp_path / "b/SW2001.SPH")
    with pytest.raises(UserError, match=r"sw02001 is there twice, .*a/sw02001.sph and .*b/SW2001.SPH"):
        find_recordings(find_files([tmp_path]), NAME, prefix="sw0")


def test_shorten(tmp_path: Path) -> None:
    call(tmp_path / "sw02001.sph")
    for number in (2002, 2003):
        call(tmp_path / f"sw0{number}.sph", coding="ulaw,embedded-shorten-v2.00")
    with pytest.raises(
        UserError, match=r"^2 of 3 recordings .* shorten, the first is .*sw02002.sph: .*sph2pipe -u"
    ):
        find_recordings(find_files([tmp_path]), NAME)


def test_shorten_is_unpacked_by_sph2pipe_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [call(tmp_path / "a/sw02001.sph"), call(tmp_path / "a/sw02002.sph", coding="ulaw,embedded-shorten-v2.00")]
    program = tmp_path / "bin/sph2pipe"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$5" ] && cp {files[0]} "$5"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    unpacked = tmp_path / "unpacked"
    for _ in range(2):
        found = find_recordings(files, NAME, prefix="sw0", unpacked=unpacked)
        assert found == {"sw02001": Recording(files[0], 0.5), "sw02002": Recording(unpacked / "sw02002.sph", 0.5)}
    (line,) = (tmp_path / "calls").read_text().splitlines()  # the second time it is there
    assert line.startswith(f"-u -f sph {files[1]} ")
    shutil.rmtree(unpacked)
    program.write_text("#!/bin/sh\necho bad header >&2\nexit 1\n")
    with pytest.raises(UserError, match="sph2pipe cannot unpack .*sw02002.sph: bad header: copy the file again$"):
        find_recordings(files, NAME, unpacked=unpacked)
    assert not any(unpacked.iterdir())


def test_audio_of_another_kind(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "sw02001.wav", STEREO[:, 0], 8000)
    with pytest.raises(UserError, match=r"sw02001.wav has 1 channel\(s\): a call has two"):
        find_recordings(find_files([tmp_path]), NAME)
    (tmp_path / "sw02001.wav").write_bytes(b"no audio")
    with pytest.raises(UserError, match="sw02001.wav cannot be read as audio"):
        find_recordings(find_files([tmp_path]), NAME)


def test_one_file_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/HUB.PEM").write_text("")
    assert find_one(find_files([tmp_path]), "hub.pem", "segments") == tmp_path / "a/HUB.PEM"
    with pytest.raises(UserError, match=r"there is no hub.stm: give directories .* \(reference\)"):
        find_one(find_files([tmp_path]), "hub.stm", "reference")
    (tmp_path / "hub.pem").write_text("")
    with pytest.raises(UserError, match=r"2 files are called hub.pem, such as .*a/HUB.PEM"):
        find_one(find_files([tmp_path]), "hub.pem", "segments")


@pytest.mark.parametrize(
    ("segment", "fitted"),
    [((0.0, 0.5), (0.0, 0.5)), ((0.2, 0.6), (0.2, 0.6)), ((0.2, 0.7), (0.2, 0.5)), ((0.5, 0.55), None)],
)
def test_a_segment_ends_with_its_recording(segment: tuple, fitted: tuple | None) -> None:
    assert Recording(Path("x"), 0.5).clip(*segment) == fitted
