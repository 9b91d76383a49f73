"""The steps that bring written text into the student's form, and what the chain counts."""

from pathlib import Path

import pytest

from espnet_kd.errors import UserError
from espnet_kd.pseudo_label import normalise
from espnet_kd.pseudo_label.normalise import Chain, build_step, changes


@pytest.mark.parametrize(
    ("chain", "text", "expected"),
    [
        ("letters digits upper", "G-M-E-F-39", "G M E F THREE NINE"),
        ("letters capitals digits punctuation upper", "Rub out GMEF39.", "RUB OUT G M E F THREE NINE"),
        ("letters", "edz56, A7 U.S.A. H&I", "e d z 56, A 7 U S A. H I"),
        ("letters", "E-mail covid-19 2nd 1960s 5-3 well-known", "E-mail covid-19 2nd 1960s 5-3 well-known"),
        ("letters", "UB-UTR6.", "UB U T R 6."),
        ("letters", "3.5G v1.5 G.39", "3.5G v1.5 G 39"),
        ("capitals", "SPEER. ROC-H-E-S-T-E-R, iNG I Anna", "S P E E R. R O C H E S T E R, iNG I Anna"),
        ("digits", "5-3 on May 2nd", "five - three on May second"),
        ("digits:de", "39", "drei neun"),
        ("numbers", "39 1,000 3.5", "thirty nine one thousand three point five"),
        ("numbers", "1,234.5", "one thousand two hundred and thirty four point five"),
        ("numbers", "1,000th", "one thousandth"),
        ("numbers:ru", "9" * 40, " ".join(["девять"] * 40)),
        ("digits:pl", "0th", "zero"),
        ("numbers", "007", "zero zero seven"),
        ("numbers", "the 22nd", "the twenty second"),
        ("numbers", "the 1990s, '80s and 2010s", "the nineteen nineties, 'eighties and twenty tens"),
        ("dates punctuation", "May 2nd, 1965.", "May second nineteen sixty five"),
        ("dates", "march 7 of june", "march seventh of june"),
        ("punctuation", "“Don’t,” he said - O'Neil's 5%", "Don't he said O'Neil's 5"),
        ("punctuation:-", "well-known.", "well-known"),
        ("brackets punctuation", ">> [MUSIC] (laughs) yes <unk>", "yes"),
        ("cjk", "ＡＢＣ 你 好 world 도 시", "ABC 你好 world 도 시"),
        ("lower", "ÄB", "äb"),
        ("upper upper", "a", "A"),
    ],
)
def test_steps(chain: str, text: str, expected: str) -> None:
    assert Chain(chain.split())(text) == expected


def test_a_chain_does_not_change_its_own_result() -> None:
    chain = Chain("brackets letters dates digits punctuation upper".split())
    for text in ("Enter 9-1, G-M-E-F-39 on May 2nd, 1965 [x]", "Don't"):
        once = chain(text)
        assert chain(once) == once


def test_phrases_are_replaced_as_whole_words_the_longest_first(tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("rub out: rubout\nrub: press\n'zero point': '0.'\n")
    chain = Chain([f"replace:{tmp_path}/words.yaml"])
    assert chain("Rub  out the scrub, RUB zero point 5") == "rubout the scrub, press 0. 5"


def test_what_changes_is_counted_with_the_ten_most_frequent_changes() -> None:
    chain = Chain(["digits", "upper"])
    for text in ["4 you", "4 me", "PLEASE", "5"]:
        chain(text)
    chain("4 4 4", count=False)
    digits, upper = chain.summary()
    assert (digits["step"], digits["changed"], upper["changed"]) == ("digits", 3, 3)
    assert digits["most_frequent"] == [
        {"from": "4", "to": "four", "times": 2}, {"from": "5", "to": "five", "times": 1},
    ]  # fmt: skip
    assert upper["most_frequent"][0] == {"from": "four", "to": "FOUR", "times": 2}
    for number in range(20):
        chain(f"w{number}")
    assert len(chain.summary()[1]["most_frequent"]) == 10


def test_rare_changes_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalise, "DISTINCT", 4)
    chain = Chain(["upper"])
    for text in ["often"] * 3 + [f"w{i}" for i in range(50)]:
        chain(text)
    assert chain.summary()[0]["most_frequent"][0] == {"from": "often", "to": "OFTEN", "times": 3}
    assert len(chain._changes[0]) <= 5


def test_changes_are_words_in_their_places() -> None:
    assert list(changes("a b c", "a B c")) == [("b", "B")]
    assert list(changes("rub out G-M now", "rubout now")) == [("rub out G-M", "rubout")]
    assert list(changes("x [noise] y", "x y")) == [("[noise]", "")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("soap", "--normalise soap: no such step; known are brackets, letters"),
        ("upper:de", "upper takes no argument, but has de"),
        ("digits:klingon", "num2words knows no language 'klingon'"),
        ("replace", "needs a YAML file"),
        ("replace:missing.yaml", "missing.yaml does not exist"),
    ],
)
def test_steps_that_cannot_be_made(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_step(name)


def test_a_table_of_replacements_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("a: [1]\n")
    with pytest.raises(UserError, match="words.yaml: write a phrase and what replaces it"):
        build_step(f"replace:{tmp_path}/words.yaml")


def test_a_step_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin:
        name, value = "twice", "package:twice"

        @staticmethod
        def load():
            return lambda argument: lambda text: f"{text} {argument or text}"

    monkeypatch.setattr(normalise, "entry_points", lambda group: [Plugin] if "normalisers" in group else [])
    assert Chain(["twice", "twice:x"])("a") == "a a x"
