"""Pseudo-labels: a teacher's hypotheses for speech without transcripts, decoded in parallel and filtered."""
