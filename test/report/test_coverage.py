"""What the k most probable classes keep."""

from pathlib import Path

import numpy as np

from espnet_kd.report.coverage import add_utterance, coverage_table, plot_lost_mass

# Blank first: two frames of blank, one of a token; two steps of the decoder.
FRAMES = np.array([[0.9, 0.1, 0.0], [0.7, 0.1, 0.2], [0.0, 0.6, 0.4]])
STEPS = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])


def curves() -> dict:
    found: dict = {}
    add_utterance(found, "ctc.ctc_lo", FRAMES[:1])
    add_utterance(found, "ctc.ctc_lo", FRAMES[1:])
    add_utterance(found, "decoder", STEPS)
    return found


def test_mass_by_kind_of_position() -> None:
    found = curves()
    assert {name: curve.positions for name, curve in found.items()} == {
        "ctc.ctc_lo: all": 3,
        "ctc.ctc_lo: blank": 2,
        "ctc.ctc_lo: non-blank": 1,
        "decoder: all": 2,
    }
    # (0.9 + 0.7) / 2, and with the second class (1 + 0.9) / 2
    np.testing.assert_allclose(found["ctc.ctc_lo: blank"].mass, [0.8, 0.95, 1.0])
    np.testing.assert_allclose(found["ctc.ctc_lo: non-blank"].mass, [0.6, 1.0, 1.0])
    np.testing.assert_allclose(found["decoder: all"].mass, [0.75, 0.875, 1.0])


def test_k_goes_no_further_than_50_and_no_further_than_the_vocabulary() -> None:
    found: dict = {}
    add_utterance(found, "decoder", np.full((1, 100), 0.01))
    np.testing.assert_allclose(found["decoder: all"].mass, np.arange(1, 51) / 100)
    assert len(curves()["decoder: all"].mass) == 3


def test_table_and_picture(tmp_path: Path) -> None:
    text = coverage_table(curves(), "teacher on dev")
    assert "| k | ctc.ctc_lo: all (3) | ctc.ctc_lo: blank (2) |" in text
    assert "| 1 | 73.333 | 80.000 | 60.000 | 75.000 |" in text and text.count("\n") == 7
    late = dict(reversed(curves().items()))  # a kind that the first utterance does not have
    assert coverage_table(late, "teacher on dev") == text
    plot_lost_mass(curves(), tmp_path / "kept.png")
    assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")
