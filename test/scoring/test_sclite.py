import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from espnet_kd.scoring.alignment import Aligned, align
from espnet_kd.scoring.sclite import write_result


def render(aligned: Iterable[tuple[str, Aligned]], utt2spk: dict[str, str] | None = None) -> str:
    with TemporaryDirectory() as folder:
        write_result(Path(folder, "result.txt"), aligned, utt2spk)
        return Path(folder, "result.txt").read_text()


def rendered(utt2spk: dict[str, str] | None = None, unit: str = "word") -> str:
    references = {"u1": "a b c d", "u2": "e f", "u3": "g h"}
    hypotheses = ["a x c d y", "e f", "g"]
    rows = align(list(references.values()), hypotheses, unit)
    return render(zip(references, rows, strict=True), utt2spk)


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {name}"))
    return re.split(r"[|\s]+", line.strip("| "))[1:]


def test_sums_match_a_hand_calculation() -> None:
    # 3 sentences, 8 words: 6 right, 1 substituted, 1 deleted, 1 inserted; 2 sentences with errors
    assert row(rendered(), "Sum/Avg") == ["3", "8", "75.0", "12.5", "12.5", "12.5", "37.5", "66.7"]
    assert row(rendered(), "Sum ") == ["3", "8", "6", "1", "1", "1", "3", "2"]


def test_a_row_per_speaker_and_their_mean() -> None:
    text = rendered({"u1": "ann", "u2": "bob", "u3": "ann"})
    assert row(text, "ann") == ["2", "6", "66.7", "16.7", "16.7", "16.7", "50.0", "100.0"]
    assert row(text, "bob") == ["1", "2", "100.0", "0.0", "0.0", "0.0", "0.0", "0.0"]
    assert row(text, "Mean") == ["1.5", "4.0", "83.3", "8.3", "8.3", "8.3", "25.0", "50.0"]
    assert "id: (ann-u1)" in text


def test_control_characters_are_escaped() -> None:
    text = render([("u\x1b[2J", next(align(["a\x1b]0;x\x07 b"], ["a b\u202e"], "word")))])
    assert "id: (u\\x1b[2J)" in text and "a\\x1b]0;x\\x07" in text and "b\\u202e" in text
    assert text.isprintable() or set(text) - {c for c in text if c.isprintable()} == {"\n"}


def test_only_the_row_sum_avg_contains_avg() -> None:
    text = rendered({"u1": "ann", "u2": "bob", "u3": "ann"})
    assert [line for line in text.splitlines() if "Avg" in line] == [
        line for line in text.splitlines() if line.startswith("| Sum/Avg|")
    ]


def test_columns_of_an_alignment_are_padded() -> None:
    lines = rendered().split("id: (u1)\n")[1].splitlines()[:4]
    assert lines[0] == "Scores: (#C #S #D #I) 3 1 0 1"
    assert lines[1:] == ["REF:  a b c d *", "HYP:  a x c d y", "Eval:   S     I"]


def test_a_space_is_shown_by_name_and_wide_characters_take_two_columns() -> None:
    aligned = align(["日 a"], ["日a"], "character")
    lines = render([("u", next(aligned))]).splitlines()
    assert "REF:  日 <space> a" in lines
    assert "HYP:  日 ******* a" in lines


def test_rows_of_a_table_have_equal_width() -> None:
    text = rendered({"u1": "a speaker with a long name", "u2": "b", "u3": "b"})
    tables = text.split("DUMP")[0].splitlines()
    assert len({len(line) for line in tables if line.startswith("|")}) <= 2  # percentages, counts


def test_runs_of_equal_tokens_are_formatted_like_single_tokens() -> None:
    # 日 takes two columns; equal tokens are written as one column, the others one by one
    lines = render([("u", next(align(["日 b c d"], ["日 b x d"], "word")))]).splitlines()
    assert lines[-3:] == ["REF:  日 b c d", "HYP:  日 b x d", "Eval:      S"]
