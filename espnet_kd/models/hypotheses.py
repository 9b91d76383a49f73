"""Which utterances of a batch have a teacher's hypothesis where others have a transcript."""

from collections.abc import Sequence

PREFIX = "pseudo-"  # of the ids of utterances and speakers, as "sp0.9-" marks those at another speed


def are_hypotheses(utt_ids: Sequence[str]) -> list[bool]:
    """True for each utterance whose text is a hypothesis."""
    return [utt.startswith(PREFIX) for utt in utt_ids]
