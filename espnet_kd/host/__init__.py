"""Everything of ESPnet that is private or has moved: the one place that a new ESPnet can break."""
