"""Directories of trained models, and the chunks that a stream takes."""

from pathlib import Path

import numpy as np
import pytest

from espnet_kd.errors import UserError
from espnet_kd.measure.recogniser import chunks, find_kind


@pytest.mark.parametrize(
    ("samples", "sizes"),
    [(0, [0]), (3, [3]), (4, [4, 0]), (9, [4, 4, 1])],  # the end is known only when nothing more comes
)
def test_the_last_chunk_has_what_is_left_over(samples: int, sizes: list[int]) -> None:
    speech = np.arange(samples, dtype=np.float32)
    found = list(chunks(speech, 4))
    assert [len(chunk) for chunk, _ in found] == sizes
    assert [last for _, last in found] == [False] * (len(sizes) - 1) + [True]
    assert np.array_equal(np.concatenate([chunk for chunk, _ in found]), speech)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no .*config\.yaml.*: give the directory of a trained"):
        find_kind(tmp_path)
    with pytest.raises(UserError, match="missing is not a directory"):
        find_kind(tmp_path / "missing")
