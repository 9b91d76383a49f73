"""The form of labels: the chain of normalisers, and the tokens that the student has to write them."""

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from espnet_kd.decoding.records import PseudoLabel
from espnet_kd.errors import UserError
from espnet_kd.files import read_lines
from espnet_kd.pseudo_label.normalise import SHOWN, add_option, chain_of

OUTSIDE = "outside_tokens"  # file of the labels that the student's tokens cannot write


def add_options(p: argparse.ArgumentParser) -> None:
    """Add the options of the form."""
    g = p.add_argument_group("form", "how labels are written")
    add_option(g, "in this order")
    g.add_argument(
        "--token_list",
        type=Path,
        help=f"the student's tokens: labels with others are dropped, and listed in {OUTSIDE}",
    )
    g.add_argument("--token_type", choices=("bpe", "char", "word"), help="of the token list")
    g.add_argument("--bpemodel", default="none", help="of the token list")
    g.add_argument("--cleaner", default="none", help="ESPnet's cleaning of text (default: %(default)s)")


class Form:
    """Brings pseudo-labels into the student's form.

    Args:
        options: see ``add_options``.

    Raises:
        UserError: a step or the token list cannot be used.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._chain = chain_of(options)
        self._token_list = options.token_list
        self._known, self._split = _tokens(options)
        self._utterances = 0
        self._outside: Counter[str] = Counter()

    @property
    def checks_tokens(self) -> bool:
        """True if there is a token list."""
        return self._token_list is not None

    def __call__(self, label: PseudoLabel, count: bool) -> PseudoLabel:
        """Return a label in the student's form; its ``unknown`` counts tokens that are not in the list.

        Args:
            label: as the labeller wrote it.
            count: whether its changes and tokens count for the manifest.
        """
        text = self.text(label.text, count)
        outside = [] if self._split is None else [t for t in self._split(text) if t not in self._known]
        if count and outside:
            self._utterances += 1
            self._outside.update(outside)
        if text == label.text and not outside:
            return label
        return replace(label, text=text, unknown=label.unknown + len(outside))

    def text(self, text: str, count: bool = False) -> str:
        """Return a text after the steps."""
        return self._chain(text, count) if self._chain.steps else text

    def summary(self) -> dict[str, Any]:
        """Return what the manifest has of the form; nothing where no option of it was given."""
        found: dict[str, Any] = {"normalisation": self._chain.summary()} if self._chain.steps else {}
        if self._token_list is not None:
            tokens = sorted(self._outside.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
            found["outside_tokens"] = {
                "token_list": str(self._token_list),
                "utterances": self._utterances,
                "most_frequent": dict(tokens),
            }
        return found


def _tokens(options: argparse.Namespace) -> tuple[frozenset[str], Callable[[str], list[str]] | None]:
    """Return the tokens of the list, and the function that splits a text into tokens; None without a list."""
    if options.token_list is None:
        return frozenset(), None
    if options.token_type is None or (options.token_type == "bpe" and options.bpemodel == "none"):
        lacking = "--token_type" if options.token_type is None else "--bpemodel"
        raise UserError(f"--token_list {options.token_list} needs {lacking} as well")
    known = frozenset(read_lines(options.token_list))
    from espnet_kd.host.options import text_tokenizer

    bpemodel, symbols = (
        None if name == "none" else name for name in (options.bpemodel, options.nlsyms or "none")
    )
    return known, text_tokenizer(options.token_type, bpemodel, symbols, options.cleaner)
