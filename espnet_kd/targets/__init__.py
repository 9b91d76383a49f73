"""Stores of targets: a teacher's outputs for every utterance, written once and read in every epoch."""
