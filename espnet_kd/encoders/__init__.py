"""Encoders and a front end that ESPnet lacks: Jasper, Deep Speech 2, spectrogram."""

from espnet_kd.host.installed import check_espnet

check_espnet()  # one line here instead of a traceback or wrong lengths later
