"""Plans of experiments: what is trained, in which order, and what is compared with what."""
