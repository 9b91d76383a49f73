"""Decoding beyond stock ESPnet: with several models at once, and of large sets in parallel."""
