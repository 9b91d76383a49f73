"""Entry points of training: ESPnet's ASR tasks with our options, its trainer, `espnet-kd train`."""

from espnet_kd.host.installed import check_espnet

check_espnet()  # one line here instead of a traceback or wrong lengths later
