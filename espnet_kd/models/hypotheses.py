"""Which utterances of a batch have a teacher's hypothesis where others have a transcript."""

import re
from collections.abc import Sequence

PREFIX = "pseudo-"  # of the ids of utterances and speakers, as "sp0.9-" marks those at another speed
# A copy or another speed that was made of a mixture afterwards stands before it.
HYPOTHESIS = re.compile(rf"(sp[\d.]+-|copy\d+-)*{PREFIX}")


def are_hypotheses(utt_ids: Sequence[str]) -> list[bool]:
    """True for each utterance whose text is a hypothesis."""
    return [HYPOTHESIS.match(utt) is not None for utt in utt_ids]
