"""Targets on disk: what a teacher gives for every utterance, written once, read in every epoch."""
