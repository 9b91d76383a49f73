from pathlib import Path

import pytest

from espnet_kd.corpora.switchboard import LETTERS, read_acronyms, spell_acronym
from espnet_kd.errors import UserError


@pytest.mark.parametrize(
    ("word", "sounds", "spelled"),
    [
        ("IBM", "ay b iy eh m", "i._b._m."),
        ("tv", "t iy v iy", "t._v."),
        ("A", "ey", "a."),
        ("TVs", "t iy v iy z", "t._v.s"),
        ("IRAs", "ay aa r ey z", "i._r._a.s"),
        ("CPAs", "s iy p iy ey s", "c._p._a.s"),
        ("IBM's", "ay b iy eh m z", "i._b._m.'s"),
        ("W", "d ah b ax l y uw", "w."),
        ("US", "y uw eh s", "u._s."),
        ("IBM", "ih b ah m", None),
        ("do", "d uw", None),
        ("is", "ih z", None),
        ("as", "ey", None),
        ("TVs", "t iy v iy", None),
        ("s", "eh s", None),
        ("'s", "z", None),
        ("A-B", "ey b iy", None),
        ("o'b", "ow b iy", None),
        ("401k", "k ey", None),
        ("yeah", "", None),
        ("yes", "", None),
    ],
)
def test_an_acronym_sounds_like_its_letters(word: str, sounds: str, spelled: str | None) -> None:
    assert spell_acronym(word, sounds.split()) == spelled


def test_every_letter_has_a_sound() -> None:
    assert len(LETTERS) == 26 and LETTERS["w"] == ["d", "ah", "b", "ax", "l", "y", "uw"]


def test_a_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "sw-ms98-dict.text"
    path.write_text(
        " file: $SWB/data/dictionary/sw-ms98-dict.text\n# a comment\n\n"
        "IBM  ay b iy eh m\nIBM  ih b m\nNAACP eh ey ey s iy p iy\n[laughter-PC] p iy s iy\nyeah y ae\n"
    )
    acronyms = read_acronyms(path)
    assert acronyms["IBM"] == "i._b._m." and acronyms["PC"] == "p._c."
    assert acronyms["NAACP"] == "n._a._a._c._p."  # whose N the dictionary lacks
    assert acronyms["Q"] == "q." and "yeah" not in acronyms and "NIT" not in acronyms


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("yeah y ae\n")
    with pytest.raises(UserError, match="words has no word that is pronounced letter by letter"):
        read_acronyms(tmp_path / "words")
    with pytest.raises(UserError, match="none does not exist"):
        read_acronyms(tmp_path / "none")
