"""What ``kd.sh`` calls besides ESPnet, and commands that inspect models and machines."""
