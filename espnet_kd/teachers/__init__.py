"""Where targets come from while training: ESPnet experiments, ensembles, and hooks on their layers."""

from espnet_kd.host.installed import check_espnet

check_espnet()  # one line here instead of a traceback or wrong lengths later
