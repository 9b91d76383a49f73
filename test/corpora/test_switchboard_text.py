import pytest

from espnet_kd.corpora.switchboard import normalise, plain_word, unknown_marks

ACRONYMS = {"IBM": "i._b._m.", "TVs": "t._v.s", "PC's": "p._c.'s", "A": "a."}


@pytest.mark.parametrize(
    ("word", "plain"),
    [
        ("yeah", "yeah"),
        ("uh-huh", "uh-huh"),
        ("that's", "that's"),
        ("[noise]", "[noise]"),
        ("[vocalized-noise]", "[vocalized-noise]"),
        ("[laughter]", "[laughter]"),
        ("[laughter-story]", "story"),
        ("[LAUGHTER-STORY]", "STORY"),
        ("[laughter-it's]", "it's"),
        ("[laughter-sto[ry]-]", "sto-"),
        ("[laughter-yeah]-", "yeah-"),
        ("[it'n/isn't]", "it'n"),
        ("[yeam/yeah]", "yeam"),
        ("[lem[guini]-/linguini]", "lem-"),
        ("ab[solute]-", "ab-"),
        ("ab[solute]", "ab-"),
        ("ex[specially]-/especially]", "ex"),
        ("-[an]y", "-y"),
        ("[an]y", "-y"),
        ("-[40]1k", "-1k"),
        ("-[a]b[out]-", "-b-"),
        ("{yuppiedom}", "yuppiedom"),
        ("ammu[n]it-", "ammn-t-"),
        ("them_1", "them"),
        ("-", "-"),
    ],
)
def test_marks_of_a_word(word: str, plain: str) -> None:
    assert plain_word(word) == plain


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("hi um yeah I'd like to talk", "hi um yeah i'd like to talk"),
        ("[silence]", ""),
        ("[silence] yeah [SILENCE] [silence] right [silence]", "yeah right"),
        ("<b_aside> hold on <e_aside> yeah", "hold on yeah"),
        ("<B_ASIDE>hold on<E_ASIDE>", "hold on"),
        ("<b_aside> [silence] <e_aside>", ""),
        ("[noise] oh [laughter-no] [vocalized-noise]", "[noise] oh no [vocalized-noise]"),
        ("at IBM", "at i b m"),
        ("TVs and PC's", "t vs and p c's"),
        ("[laughter-IBM]", "i b m"),
        ("ibm", "ibm"),
        ("vitamin A I guess", "vitamin a i guess"),
        ("St. Louis", "st louis"),
        ("", ""),
    ],
)
def test_text_of_a_line(line: str, text: str) -> None:
    assert " ".join(normalise(line.split(), ACRONYMS)) == text


def test_without_acronyms_words_stay_together() -> None:
    assert normalise(["IBM", "A"], {}) == ["ibm", "a"]


@pytest.mark.parametrize("word", ["<foo>", "[cough]", "(x)", "a/b", "{", "[laughter"])
def test_a_mark_that_no_rule_covers_is_found(word: str) -> None:
    assert unknown_marks(["yeah", "[noise]", word]) == [word]
