"""Teachers that run while the student trains: ESPnet experiments, ensembles, and hooks on their layers."""

from espnet_kd.host.installed import check_espnet

check_espnet()  # an unsupported ESPnet is one line here, not a traceback or wrong lengths later
