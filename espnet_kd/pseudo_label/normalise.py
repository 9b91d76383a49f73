"""Bring written text into the student's form: a chain of steps, each of which counts what it changes.

A step is a function from text to text. ``NORMALISERS`` has its name and the function that makes it of the
argument behind the name, as in ``digits:de``; other packages add steps by the entry-point group ``PLUGINS``.

Source:
    Radford et al. 2022, arXiv:2212.04356, appendix C: the normaliser of ``whisper_english``.
"""

import argparse
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from espnet_kd.config import read_config
from espnet_kd.errors import UserError, first_line
from espnet_kd.files import read_json

Step = Callable[[str], str]
PLUGINS = "espnet_kd.normalisers"  # the entry-point group
SHOWN = 10  # most frequent changes in the manifest
DISTINCT = 100_000  # changes in memory; beyond it rare ones are forgotten
MONTHS = "January February March April May June July August September October November December"
DATE = re.compile(
    rf"\b({MONTHS.replace(' ', '|')})\s+(\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s+(\d{{4}}|\d{{2}})\b)?",
    re.IGNORECASE,
)
ORDINAL = re.compile(r"\b(\d{1,3}(?:,\d{3})+|\d+)(st|nd|rd|th)\b", re.IGNORECASE)
DECADE = re.compile(r"\b((?:1\d|20)\d0|[1-9]0)s\b", re.IGNORECASE)
NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
SPELLED_WITH = re.compile(r"[-&]|(?<!\d)\.|\.(?!\d)")  # not the point of a number
IN_BRACKETS = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")
CORE = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
BETWEEN_CJK = re.compile(rf"(?<=[{CJK}])\s+(?=[{CJK}])")


def add_option(p: Any, what: str) -> None:
    """Add ``--normalise`` to a parser or a group of it.

    Args:
        p: parser or group.
        what: text of the help behind "steps".
    """
    p.add_argument(
        "--normalise", nargs="+", default=[], metavar="STEP",
        help=f"steps {what}: {', '.join(NORMALISERS)}, or plug-ins; an argument follows a colon, as in "
        "digits:de (default: none)",
    )  # fmt: skip


def chain_of(options: argparse.Namespace) -> "Chain":
    """Return the chain that ``--normalise`` names; commas part steps, too.

    Raises:
        UserError: see ``Chain``.
    """
    return Chain([name for word in options.normalise for name in word.split(",") if name])


class Chain:
    """Applies steps in turn, and counts what each of them changes.

    Args:
        names: of the steps, with arguments.

    Raises:
        UserError: a name is unknown, or its argument cannot be used.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.steps = [(name, build_step(name)) for name in names]
        self._changed = [0] * len(names)
        self._changes: list[Counter[tuple[str, str]]] = [Counter() for _ in names]

    def __call__(self, text: str, count: bool = True) -> str:
        """Return the text after all steps, with single spaces."""
        for place, (_, step) in enumerate(self.steps):
            after = " ".join(step(text).split())
            if count and after != text:
                self._changed[place] += 1
                found = self._changes[place]
                found.update(changes(text, after))
                if len(found) > DISTINCT:
                    self._changes[place] = Counter(dict(found.most_common(DISTINCT // 2)))
            text = after
        return text

    def summary(self) -> list[dict[str, Any]]:
        """Return for each step how many texts it has changed, and its most frequent changes."""
        return [
            {
                "step": name,
                "changed": changed,
                "most_frequent": [
                    {"from": old, "to": new, "times": times}
                    for (old, new), times in sorted(found.items(), key=lambda item: (-item[1], item[0]))[
                        :SHOWN
                    ]
                ],
            }
            for (name, _), changed, found in zip(self.steps, self._changed, self._changes, strict=True)
        ]


def changes(before: str, after: str) -> Iterator[tuple[str, str]]:
    """Yield the words that differ between two texts, and what stands in their place."""
    one, two = before.split(), after.split()
    if len(one) == len(two):
        yield from ((a, b) for a, b in zip(one, two, strict=True) if a != b)
        return
    for kind, a, b, c, d in SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if kind != "equal":
            yield " ".join(one[a:b]), " ".join(two[c:d])


def build_step(name: str) -> Step:
    """Return the step of a name with its argument, such as ``digits:de``.

    Raises:
        UserError: the step is unknown, or its argument cannot be used.
    """
    kind, _, argument = name.partition(":")
    make = NORMALISERS.get(kind) or _load_plugin(kind)
    try:
        return make(argument)
    except ImportError as e:
        extra, package = ("labels", "num2words") if "num2words" in str(e) else ("hf", "transformers")
        raise UserError(f"--normalise {name} needs {package}: pip install 'espnet_kd[{extra}]'") from None


def _load_plugin(name: str) -> Callable[[str], Step]:
    plugins = {plugin.name: plugin for plugin in entry_points(group=PLUGINS)}
    if name not in plugins:
        raise UserError(f"--normalise {name}: no such step; known are {', '.join([*NORMALISERS, *plugins])}")
    try:
        make: Callable[[str], Step] = plugins[name].load()
    except (ImportError, AttributeError) as e:
        raise UserError(
            f"--normalise {name}, plug-in {plugins[name].value}, does not load: {first_line(e)}"
        ) from e
    return make


def _without_argument(step: Step) -> Callable[[str], Step]:
    def make(argument: str) -> Step:
        if argument:
            raise UserError(
                f"--normalise: {step.__name__.removeprefix('_')} takes no argument, but has {argument}"
            )
        return step

    return make


def brackets(text: str) -> str:
    """Remove what is in brackets, such as ``[MUSIC]``, ``(laughs)`` and ``<unk>``."""
    return IN_BRACKETS.sub(" ", text)


def letters(text: str) -> str:
    """Take apart what is spelled: ``G-M-E-F-39`` and ``gmef39`` become ``G M E F 39`` and ``g m e f 39``.

    Spelled is a word with letters and figures, or one of single letters that hyphens, full stops or ``&``
    join; ordinals (``2nd``) and words with a hyphen (``covid-19``, ``E-mail``) stay words.
    """
    return " ".join(_spell_word(word) for word in text.split())


def _spell_word(word: str) -> str:
    front, core, back = CORE.fullmatch(word).groups()  # type: ignore[union-attr]
    parts = [part for part in SPELLED_WITH.split(core) if part]
    mixed = [
        bool(re.fullmatch(r"(?=.*\d)(?=.*[^\W\d_])\w+", part)) and not _is_counted(part) for part in parts
    ]
    single = len(parts) > 1 and all(len(part) == 1 or part.isdigit() for part in parts)
    if not any(mixed) and not (single and any(part.isalpha() for part in parts)):
        return word
    spelled = (
        " ".join(re.findall(r"\d+|[^\W\d_]", part)) if is_mixed else part
        for part, is_mixed in zip(parts, mixed, strict=True)
    )
    return front + " ".join(spelled) + back


def _is_counted(word: str) -> bool:
    return re.fullmatch(r"\d+(st|nd|rd|th|s)", word, re.IGNORECASE) is not None


def capitals(text: str) -> str:
    """Spell words of capitals: ``IBM`` becomes ``I B M``; for text that has small letters, too."""
    return " ".join(
        re.sub(r"(?<![^\W\d_])[A-Z]{2,}(?![^\W\d_])", lambda m: " ".join(m[0]), _loosen(word))
        for word in text.split()
    )


def _loosen(word: str) -> str:
    """Return a word of capitals and hyphens without the hyphens, and any other as it is."""
    return word.replace("-", " ") if re.fullmatch(r"[^a-z]*[A-Z]{2,}[^a-z]*", word) else word


def cjk(text: str) -> str:
    """Remove spaces between Chinese and Japanese characters, and make full-width characters usual ones."""
    return BETWEEN_CJK.sub("", unicodedata.normalize("NFKC", text))


def _punctuation(kept: str) -> Step:
    """Replace punctuation and symbols by spaces; apostrophes within words stay, and the characters given."""

    def step(text: str) -> str:
        text = text.replace("\u2019", "'")
        return "".join(
            c if c in kept or unicodedata.category(c)[0] not in "PS" or _in_word(text, i) else " "
            for i, c in enumerate(text)
        )

    return step


def _in_word(text: str, place: int) -> bool:
    around = text[place - 1 : place] + text[place + 1 : place + 2]
    return text[place] == "'" and len(around) == 2 and around.isalpha()


def _in_words(language: str) -> Callable[..., str]:
    """Return num2words of a language, with spaces for hyphens.

    Raises:
        UserError: num2words does not know the language.
    """
    from num2words import CONVERTER_CLASSES, num2words

    if language not in CONVERTER_CLASSES:
        raise UserError(
            f"--normalise: num2words knows no language {language!r}; give a code such as en or de"
        )

    @cache
    def words(number: str, kind: str = "cardinal") -> str:
        number = number.replace(",", "")
        value = float(number) if "." in number else int(number)
        try:
            text = num2words(value, lang=language, to=kind)
        # Some languages lack ordinals, years, or numbers above a limit.
        except (NotImplementedError, ArithmeticError, LookupError, TypeError, ValueError):
            text = " ".join(num2words(int(c), lang=language) for c in number if c.isdigit())
        return re.sub(r"[-,\u00ad]", " ", text)

    return words


def _digits(language: str) -> Step:
    """Read figures one by one: ``39`` becomes ``three nine``, ``2nd`` becomes ``second``."""
    words = _in_words(language or "en")

    def step(text: str) -> str:
        text = ORDINAL.sub(lambda m: f" {words(m[1], 'ordinal')} ", text)
        return re.sub(r"[0-9]", lambda m: f" {words(m[0])} ", text)

    return step


def _numbers(language: str) -> Step:
    """Read numbers as such: ``39`` becomes ``thirty nine``; those that begin with 0 are read one by one.

    English decades are years: ``the 1990s`` becomes ``the nineteen nineties``.
    """
    words = _in_words(language or "en")

    def read(match: re.Match[str]) -> str:
        number = match[0].replace(",", "")
        if number[0] == "0" and not number.startswith("0.") and len(number) > 1:
            return " " + " ".join(words(c) for c in number if c.isdigit()) + " "
        return f" {words(number)} "

    def decade(match: re.Match[str]) -> str:
        text = words(match[1], "year" if len(match[1]) == 4 else "cardinal")
        return f"{text[:-1]}ies" if text.endswith("y") else f"{text}s"

    def step(text: str) -> str:
        if language in ("", "en"):
            text = DECADE.sub(decade, text)
        text = ORDINAL.sub(lambda m: f" {words(m[1], 'ordinal')} ", text)
        return NUMBER.sub(read, text)

    return step


def _dates(language: str) -> Step:
    """Read English dates: ``May 2nd, 1965`` and ``May 2, 1965`` become ``May second nineteen sixty five``."""
    words = _in_words(language or "en")

    def read(match: re.Match[str]) -> str:
        month, day, year = match.groups()
        if year is None:
            return f"{month} {words(day, 'ordinal')}"
        return f"{month} {words(day, 'ordinal')} {words(year, 'year' if len(year) == 4 else 'cardinal')}"

    return partial(DATE.sub, read)


def _replace(path: str) -> Step:
    """Replace phrases by those of a YAML file, ``rub out: rubout``; upper and lower case count as equal.

    Raises:
        UserError: the file is no such mapping.
    """
    if not path:
        raise UserError("--normalise replace needs a YAML file: replace:FILE")
    table = read_config(Path(path))
    if not table or not all(
        isinstance(k, str) and isinstance(v, str) and k.strip() for k, v in table.items()
    ):
        raise UserError(f"{path}: write a phrase and what replaces it in each line, `rub out: rubout`")
    by_phrase = {" ".join(key.lower().split()): value for key, value in table.items()}
    phrases = sorted(by_phrase, key=len, reverse=True)
    pattern = "|".join(re.escape(phrase).replace(r"\ ", r"\s+") for phrase in phrases)
    search = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE)
    return partial(search.sub, lambda m: by_phrase[" ".join(m[0].lower().split())])


def _whisper_english(spellings: str) -> Step:
    """Apply Whisper's English normaliser, which writes numbers in figures and contractions in full.

    Args:
        spellings: JSON of British and American spellings, ``normalizer.json`` of a model; empty for none.
    """
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return _quiet(EnglishTextNormalizer(read_json(spellings) if spellings else {}))


def _whisper_basic(argument: str) -> Step:
    """Apply Whisper's normaliser for all languages: small letters, no punctuation, nothing in brackets."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return _without_argument(_quiet(BasicTextNormalizer()))(argument)


def _quiet(normalise: Any) -> Step:
    def whisper_normaliser(text: str) -> str:
        return str(normalise(text))

    return whisper_normaliser


# Name -> function that makes the step of its argument.
NORMALISERS: dict[str, Callable[[str], Step]] = {
    "brackets": _without_argument(brackets),
    "letters": _without_argument(letters),
    "capitals": _without_argument(capitals),
    "dates": _dates,
    "digits": _digits,
    "numbers": _numbers,
    "punctuation": _punctuation,
    "replace": _replace,
    "upper": _without_argument(str.upper),
    "lower": _without_argument(str.lower),
    "cjk": _without_argument(cjk),
    "whisper_english": _whisper_english,
    "whisper_basic": _whisper_basic,
}
