"""What the stages of ``kd.sh`` call besides ESPnet."""
