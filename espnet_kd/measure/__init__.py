"""Measuring and using trained models: speed, latency, memory and size, and transcripts of audio files."""
