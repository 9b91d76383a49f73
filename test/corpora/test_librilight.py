"""Libri-light: pieces of recordings, and data directories of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from miniature import contents
from miniature_librispeech import encode, write_librilight

from espnet_kd.corpora import librilight
from espnet_kd.corpora.librilight import check_regions, cut_by_length, cut_by_speech
from espnet_kd.data.datadir import read_data_dir
from espnet_kd.errors import UserError

HOLLAND, SONG = "100/holland/01_holland_64kb", "22/song/01_song_64kb"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two recordings of 5 and 3.2 seconds."""
    activity = [[0.4, 1.6], [1.9, 2.9], [4.2, 4.4]]
    return write_librilight(tmp_path / "small", {HOLLAND: (5, activity), SONG: (3.2, [])})


def segments(tmp_path: Path) -> list[str]:
    return (tmp_path / "data" / "librilight" / "segments").read_text().splitlines()


def test_pieces_of_one_length(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture) -> None:
    librilight.main([str(root), str(tmp_path / "data"), "--longest", "2"])
    assert segments(tmp_path) == [
        "100-holland-01_holland_64kb_00000000-00002000 100-holland-01_holland_64kb 0.0 2.0",
        "100-holland-01_holland_64kb_00002000-00004000 100-holland-01_holland_64kb 2.0 4.0",
        "100-holland-01_holland_64kb_00004000-00005000 100-holland-01_holland_64kb 4.0 5.0",
        "22-song-01_song_64kb_00000000-00002000 22-song-01_song_64kb 0.0 2.0",
        "22-song-01_song_64kb_00002000-00003200 22-song-01_song_64kb 2.0 3.2",
    ]
    data = tmp_path / "data" / "librilight"
    assert {p.name for p in data.iterdir()} == {"wav.scp", "utt2spk", "spk2utt", "segments"}
    assert (data / "wav.scp").read_text() == (
        f"100-holland-01_holland_64kb {root / HOLLAND}.flac\n22-song-01_song_64kb {root / SONG}.flac\n"
    )
    assert set(read_data_dir(data, labelled=False).speaker.values()) == {"100-holland", "22-song"}
    assert capsys.readouterr().out == f"{data}: 5 pieces of 2 recordings, 0.00 of 0.00 hours\n"


def test_dropped_pieces_and_recordings_are_counted(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture
) -> None:
    (root / "README.md").touch()
    librilight.main([str(root), str(tmp_path / "data"), "--longest", "2", "--shortest", "1.1"])
    said = capsys.readouterr().out
    assert "left out: 1 pieces shorter than 1.1 seconds\n" in said
    assert "left out: 1 files that are neither .flac nor .json\n" in said
    assert len(segments(tmp_path)) == 4


def test_pieces_of_speech(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture) -> None:
    librilight.main([str(root), str(tmp_path / "data"), "--cut", "speech", "--set", "librilight"])
    # 0.4-1.6 and 1.9-2.9 are joined; 4.2-4.4 follows after 1.3 seconds and is short
    assert [line.split()[2:] for line in segments(tmp_path)] == [["0.4", "2.9"]]
    said = capsys.readouterr().out
    assert "left out: 1 pieces shorter than 1 seconds\n" in said
    assert "left out: 1 recordings without a region (speech)\n" in said
    librilight.main([str(root), str(tmp_path / "data"), "--cut", "speech", "--pause", "1.5"])
    assert [line.split()[2:] for line in segments(tmp_path)] == [["0.4", "4.4"]]


def test_pieces_at_given_times_are_taken_as_they_are(tmp_path: Path, root: Path) -> None:
    (tmp_path / "cuts.json").write_text(json.dumps({f"{HOLLAND}.flac": [[1, 1.5], [0, 5.25]]}))
    librilight.main([str(root), str(tmp_path / "data"), "--segments", str(tmp_path / "cuts.json")])
    assert [line.split()[2:] for line in segments(tmp_path)] == [["0.0", "5.0"], ["1.0", "1.5"]]


def test_a_file_in_the_root_is_its_own_speaker(tmp_path: Path) -> None:
    (tmp_path / "lone.flac").write_bytes(encode(np.zeros(16000)))
    librilight.main([str(tmp_path), str(tmp_path / "data")])
    table = (tmp_path / "data" / "librilight" / "utt2spk").read_text()
    assert table == "lone_00000000-00001000 lone\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "01_song_64kb.json:1: not JSON"),
        ("[]", "01_song_64kb.json holds a list, not a JSON object"),
        ("{}", "01_song_64kb.json: voice_activity: expected a list of"),
        ('{"voice_activity": [[1, 9]]}', r"voice_activity: \[1, 9\] is not within the recording"),
        (None, "01_song_64kb.json does not exist: use --cut length instead"),
    ],
)
def test_voice_activity_must_be_there_and_fit(
    tmp_path: Path, root: Path, content: str | None, message: str
) -> None:
    path = root / f"{SONG}.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=message):
        librilight.main([str(root), str(tmp_path / "data"), "--cut", "speech"])
    assert not (tmp_path / "data").exists()


def test_given_times_must_be_of_a_recording(tmp_path: Path, root: Path) -> None:
    command = [str(root), str(tmp_path / "data"), "--segments", str(tmp_path / "cuts.json")]
    (tmp_path / "cuts.json").write_text(json.dumps({HOLLAND: [[1, 2]]}))
    with pytest.raises(UserError, match=f"cuts.json: there is no {HOLLAND} below the root"):
        librilight.main(command)
    (tmp_path / "cuts.json").write_text(json.dumps({f"{HOLLAND}.flac": [[1, 9]]}))
    with pytest.raises(UserError, match=rf"cuts.json: {HOLLAND}.flac: \[1, 9\] is not within"):
        librilight.main(command)


@pytest.mark.parametrize(
    ("name", "samples", "message"),
    [
        ("100-holland/01_holland_64kb", np.zeros(800), "would both have the id 100-holland-01_holland_64kb"),
        ("100/stereo", np.zeros((800, 2)), "stereo.flac has 2 channels instead of one"),
        ("100/empty", np.zeros(0), "empty.flac"),
        ("100/with space", np.zeros(16000), "'100-with space_00000000-00001000' cannot be an id"),
    ],
)
def test_recordings_that_cannot_be_used_are_refused(
    tmp_path: Path, root: Path, name: str, samples: np.ndarray, message: str
) -> None:
    path = root / f"{name}.flac"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(samples))
    with pytest.raises(UserError, match=message):
        librilight.main([str(root), str(tmp_path / "data")])


def test_a_link_to_a_directory_above_is_followed_once(tmp_path: Path, root: Path) -> None:
    librilight.main([str(root), str(tmp_path / "data")])
    before = contents(tmp_path / "data")
    (root / "zzz").symlink_to(root)
    librilight.main([str(root), str(tmp_path / "data")])
    assert contents(tmp_path / "data") == before


def test_a_header_with_a_duration_of_years_is_refused(tmp_path: Path, root: Path) -> None:
    path = root / "100/pipe.flac"
    data = bytearray(encode(np.zeros(16000)))
    data[21:26] = ((data[21] >> 4 << 36) | (1 << 36) - 1).to_bytes(5)  # the lower 36 bits count the samples
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(
        UserError, match="pipe.flac has 68719476735 samples at 16000 Hz according to"
    ):
        librilight.main([str(root), str(tmp_path / "data")])


@pytest.mark.parametrize("options", [["--longest", "0"], ["--shortest", "20"], ["--pause", "-1"]])
def test_contradictory_lengths_are_refused(tmp_path: Path, root: Path, options: list[str]) -> None:
    with pytest.raises(UserError, match="expected 0 <= --shortest <= --longest"):
        librilight.main([str(root), str(tmp_path / "data"), *options])


def test_a_tree_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no .flac files in it or below it"):
        librilight.main([str(tmp_path), str(tmp_path / "data")])
    with pytest.raises(UserError, match="none is not a directory"):
        librilight.main([str(tmp_path / "none"), str(tmp_path / "data")])


@pytest.mark.parametrize(
    ("duration", "pieces"),
    [(7, [(0, 7)]), (10, [(0, 10)]), (25, [(0, 10), (10, 20), (20, 25)]), (20, [(0, 10), (10, 20)])],
)
def test_pieces_have_equal_length_but_the_last(duration: float, pieces: list) -> None:
    assert cut_by_length(duration, longest=10) == pieces


@pytest.mark.parametrize(
    ("regions", "pieces"),
    [
        ([], []),
        ([(1, 3)], [(1, 3)]),
        ([(1, 3), (4, 6), (6.5, 9)], [(1, 9)]),  # pauses of 1 and 0.5
        ([(1, 3), (4.1, 6)], [(1, 3), (4.1, 6)]),  # a pause of 1.1
        ([(1, 6), (6.5, 11), (11, 12)], [(1, 11), (11, 12)]),  # the third would make 11 seconds
        ([(1, 6), (6.5, 11.5)], [(1, 6), (6.5, 11.5)]),
        ([(0, 12)], [(0, 6), (6, 12)]),  # too long: two equal parts
        ([(0, 12), (12.5, 15)], [(0, 6), (6, 15)]),  # the second part has room for the next region
        ([(0, 5), (2, 3), (4, 6)], [(0, 6)]),  # they may overlap
    ],
)
def test_regions_of_speech_are_joined_across_short_pauses(regions: list, pieces: list) -> None:
    assert cut_by_speech(regions, longest=10, pause=1) == pieces


def test_regions_are_sorted_and_end_with_the_recording() -> None:
    assert check_regions([[5, 10.5], [0.5, 2]], duration=10) == [(0.5, 2), (5, 10)]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (None, "expected a list of .*, not None"),
        ({"a": 1}, "a list of"),
        ([[1, 2, 3]], r"\[start, end\] in seconds, not \[1, 2, 3\]"),
        ([[1, "x"]], "in seconds, not"),
        ([5], "in seconds, not"),
        ([[0, 10**400]], "in seconds, not"),
        ([[2, 1]], r"\[2, 1\] is not within the recording, which has 10 seconds"),
        ([[-1, 1]], "is not within"),
        ([[1, float("nan")]], "is not within"),
        ([[9, 11.5]], "is not within"),
        ([[10.2, 10.5]], "is not within"),
    ],
)
def test_other_regions_are_refused(regions: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_regions(regions, duration=10)
