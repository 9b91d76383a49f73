"""Teachers whose token list is another order or a part of the student's, or has more tokens than it.

Tokens are the same if their names are. Axes: B utterances, P positions, L tokens of a transcript, S and V the
sizes of the token lists of student and teacher.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from espnet_kd.criteria import TopClasses
from espnet_kd.errors import UserError
from espnet_kd.rnnt import Joint
from espnet_kd.rnnt.device import to_device
from espnet_kd.teachers.model import TeacherModel
from espnet_kd.teachers.taps import Targets

ABSENT = -1e4  # logit of a token that the teacher does not have: the posterior is 0, its logarithm finite
SHOWN = 5  # tokens in a message
SPECIAL = ("<unk>", "<sos/eos>", "<s>", "</s>", "<pad>")  # of ESPnet and of transformers


@dataclass(frozen=True)
class TokenMap:
    """Numbers of the student's tokens in the teacher's list.

    Attributes:
        numbers: (S,) for each token of the student, on the host; -1 for one that the teacher does not have.
        logits: layers whose values are logits, and which therefore get the student's order.
        classes: V, size of the teacher's list.
    """

    numbers: Tensor
    logits: frozenset[str]
    classes: int

    @property
    def known(self) -> int:
        """Number of tokens that both lists have."""
        return int((self.numbers >= 0).sum())

    def text(self, text: Tensor) -> Tensor:
        """Return transcripts, (B, L) tokens of the student padded with -1, in tokens of the teacher."""
        numbers = torch.cat([self.numbers, torch.tensor([-1])])  # the last one is for padding
        return to_device(numbers, text.device)[text]

    def targets(self, seen: Mapping[str, Targets]) -> dict[str, Targets]:
        """Return the teacher's values, by tap, with the student's tokens in the last axis of logits.

        Raises:
            UserError: a layer has not as many values as the teacher has tokens, such as an encoder.
        """
        for tap, found in seen.items():
            values = found.values
            size = values.classes if isinstance(values, Joint) else getattr(values, "shape", (0,))[-1]
            if tap in self.logits and not isinstance(values, TopClasses) and size != self.classes:
                raise UserError(
                    f"{tap} of the teacher has {size} values at a position, but the teacher has "
                    f"{self.classes} tokens: choose a tap that gives logits, such as ctc.ctc_lo"
                )
        return {
            tap: replace(found, values=self._mapped(found.values)) if tap in self.logits else found
            for tap, found in seen.items()
        }

    def _mapped(self, values: Any) -> Any:
        if isinstance(values, Joint):
            return self._joint(values)
        if isinstance(values, TopClasses):  # all of them are tokens of the student
            known = self.numbers >= 0
            ours = torch.zeros(self.classes, dtype=torch.long)
            ours[self.numbers[known]] = torch.arange(len(known))[known]
            tokens = values.tokens.clamp(max=self.classes - 1)  # padding may hold anything
            return TopClasses(to_device(ours, tokens.device)[tokens], values.log_probs)
        return self._rows(values.movedim(-1, 0), ABSENT).movedim(0, -1)

    def _joint(self, joint: Joint) -> Joint:
        return replace(joint, weight=self._rows(joint.weight, 0.0), bias=self._rows(joint.bias, ABSENT))

    def _rows(self, values: Tensor, absent: float) -> Tensor:
        """(V, ...) -> (S, ...)."""
        numbers = to_device(self.numbers, values.device)
        rows = values.index_select(0, numbers.clamp(min=0))
        missing = (numbers < 0).view(-1, *[1] * (values.dim() - 1))
        return rows.masked_fill(missing, absent)


def map_tokens(
    ours: Sequence[str],
    theirs: Sequence[str],
    logits: Collection[str],
    reads: str | None,
    owner: str,
    blank: int = 0,
) -> TokenMap | None:
    """Find the student's tokens in the teacher's list; None if the lists are the same.

    Args:
        ours: the student's token list.
        theirs: the teacher's.
        logits: layers of the teacher that give logits.
        reads: what makes the teacher read transcripts, such as "criterion att"; None if nothing does.
        owner: the teacher, for messages.
        blank: number of the blank in the teacher's list.

    Raises:
        UserError: neither list contains the other, the blanks differ, a name is twice in a list, or the
            teacher would have to read tokens that it does not have.
    """
    if list(ours) == list(theirs):
        return None
    for whose, tokens in (("the student", ours), (owner, theirs)):
        if len(set(tokens)) < len(tokens):
            raise UserError(f"{whose} has a token twice: lists are compared by the names of tokens")
    more, fewer = ([t for t in a if t not in b] for a, b in ((ours, set(theirs)), (theirs, set(ours))))
    apart = [[t for t in side if not is_special(t)] for side in (more, fewer)]
    if ours[0] != theirs[blank] or all(apart):
        first = next(i for i, t in enumerate(ours) if i >= len(theirs) or t != theirs[i])
        other = repr(theirs[first]) if first < len(theirs) else "absent"
        raise UserError(
            f"token {first} is {ours[first]!r} for the student, {other} for {owner}, and neither list "
            f"contains the other (the student alone has {_some(more)}, the teacher {_some(fewer)}): train "
            "both with one token list (--token_from), or compare hidden vectors of the encoders alone, or "
            "sorted distributions (`type: uld`)"
        )
    if more and reads is not None:
        raise UserError(
            f"{reads} makes {owner} read transcripts, but it does not have {_some(more)} of the student: "
            "train both with one token list, or compare the posteriors of CTC alone"
        )
    number = {token: i for i, token in enumerate(theirs)}
    return TokenMap(torch.tensor([number.get(token, -1) for token in ours]), frozenset(logits), len(theirs))


def map_text(ours: Sequence[str], theirs: Sequence[str], reads: str, owner: str) -> TokenMap | None:
    """Find for each token of the student the teacher's of the same text; None if the lists are the same.

    For a teacher that reads transcripts where no classes are compared: both must cut a text in the same way,
    but their tokens may differ in case, in the sign of a word's begin and in what else is in the lists.

    Args:
        ours: the student's token list.
        theirs: the teacher's.
        reads: what makes the teacher read transcripts.
        owner: the teacher, for messages.

    Raises:
        UserError: the teacher lacks a token of the student.
    """
    if list(ours) == list(theirs):
        return None
    names = {token: i for i, token in enumerate(theirs)}
    texts = {text_of(token): i for i, token in reversed(list(enumerate(theirs)))}
    numbers = [names.get(token, texts.get(text_of(token), -1)) for token in ours]
    needed = zip(ours, numbers, strict=True)
    if missing := [t for t, n in needed if n < 0 and t not in (ours[0], *SPECIAL[1:])]:
        raise UserError(
            f"{reads} makes {owner} read transcripts, but has nothing for {_some(missing)} of the student: "
            "both must cut a text into the same tokens: make the student's tokens from the teacher "
            "(--token_from), or compare the encoders"
        )
    return TokenMap(torch.tensor(numbers), frozenset(), len(theirs))


def text_of(token: str) -> str:
    """Return the text that a token stands for, in lower case and with a blank at the begin of a word."""
    text = " " if token == "<space>" else token.replace("\u2581", " ").replace("\u0120", " ")
    return text.casefold()


def is_special(token: str) -> bool:
    """Return whether a token stands for no text; one list may lack it."""
    return token in SPECIAL or token.startswith("<unused")


def _some(tokens: Sequence[str]) -> str:
    shown = ", ".join(map(repr, tokens[:SHOWN]))
    return f"{shown} and {len(tokens) - SHOWN} more" if len(tokens) > SHOWN else shown or "none"


def tokens_of(teacher: TeacherModel, user: str) -> list[str]:
    """Return the tokens of a teacher.

    Raises:
        UserError: it has none; names what needs them.
    """
    if teacher.tokens is None:
        raise UserError(
            f"{user} compares distributions over tokens, but {teacher.owner} has none: compare hidden "
            "vectors (`type: hidden`), or use its transcripts as pseudo-labels"
        )
    return teacher.tokens


def check_tokens(tokens: Sequence[str], teacher: TeacherModel, user: str) -> None:
    """Refuse a teacher with another token list, naming the first difference.

    Args:
        tokens: the student's, or those of another teacher.
        teacher: the teacher.
        user: what needs them to be the same, one of ``token_users``.
    """
    owner, theirs_all = teacher.owner, tokens_of(teacher, user)
    way_out = (
        f"{user} needs the same tokens in both: train both with one token list, or compare hidden vectors of "
        "the encoders alone"
    )
    for i, (ours, theirs) in enumerate(zip(tokens, theirs_all, strict=False)):
        if ours != theirs:
            raise UserError(f"token {i} is {ours!r} for the student, {theirs!r} for {owner}: {way_out}")
    if len(tokens) != len(theirs_all):
        raise UserError(f"the student has {len(tokens)} tokens, {owner} {len(theirs_all)}: {way_out}")
