"""What changes a model's training: distillation, mutual learning, scheduled sampling and others."""

from espnet_kd.host.installed import check_espnet

check_espnet()
