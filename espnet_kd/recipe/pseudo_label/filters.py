"""Filters of pseudo-labels that need no reference; each is a function of what the teacher said.

Source:
    Kahn et al. 2020, arXiv:1909.09116: looping hypotheses and the length-normalised score;
    Hwang et al. 2022, arXiv:2210.05793, for where they are used.
"""

import math
from collections.abc import Mapping, Sequence


def normalised_score(score: float, tokens: int) -> float:
    """Log-probability per prediction, in nats; the end of the sentence is one prediction more.

    ESPnet normalises in the same way, in its attention beam search as in its transducer one.
    """
    return score / (tokens + 1)


def speaking_rate(tokens: int, seconds: float) -> float:
    """Tokens per second; infinite where tokens were found in no time."""
    return tokens / seconds if seconds else math.inf


def is_looping(text: str, longest: int, most: int) -> bool:
    """True if a text repeats itself: a phrase or a string stands more than ``most`` times in a row.

    Args:
        longest: length of the phrases in words, and of the strings in characters, up to which is searched.
        most: how many times in a row are allowed.
    """
    words = text.split()
    return repeats(words, longest, most) or repeats(" ".join(words), longest, most)


def repeats(units: Sequence[str], longest: int, most: int) -> bool:
    """True if an n-gram of 1 to ``longest`` units stands more than ``most`` times in a row."""
    for n in range(1, longest + 1):
        run = 0  # units that equal the one n before
        for i in range(n, len(units)):
            run = run + 1 if units[i] == units[i - n] else 0
            if run >= n * most:
                return True
    return False


def disagreement(texts: Sequence[str], others: Sequence[str], unit: str) -> list[float]:
    """Error rate in per cent of each text's other decode against it.

    Args:
        texts: not empty.
        others: in the same order; may be empty.
        unit: "word" or "character".
    """
    from espnet_kd.recipe.alignment import align

    return [aligned.counts.rate for aligned in align(texts, others, unit)]


def best(scores: Mapping[str, float], percent: float) -> set[str]:
    """The utterances with the highest scores, that share of them; ties go by id.

    Args:
        scores: by utterance.
        percent: above 0, up to 100; the number is rounded up.
    """
    ranked = sorted(scores, key=lambda utt: (-scores[utt], utt))
    return set(ranked[: math.ceil(round(percent * len(ranked) / 100, 9))])
