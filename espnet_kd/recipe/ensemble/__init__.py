"""Decode with several models at once, by the search of stock ESPnet."""
