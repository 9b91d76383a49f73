"""Encoders and front ends that ESPnet lacks: Jasper, Deep Speech 2; spectrogram, sherpa-onnx's features."""

from espnet_kd.host.installed import check_espnet

check_espnet()  # an unsupported ESPnet is one line here, not a traceback or wrong lengths later
