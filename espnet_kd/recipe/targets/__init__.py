"""Soft targets: what a teacher says about speech with transcripts, written once in parallel, checked."""
