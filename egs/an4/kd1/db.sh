# Sourced by kd.sh: options of this recipe in addition to those of kd.sh; they are exported to local/data.sh.
# shellcheck disable=SC2034
# options
# AN4
an4=https://huggingface.co/datasets/espnet/an4/resolve/main/an4_sphere.tar.gz  # directory, tarball or URL of the corpus
an4_labelled=               # 20 adds the sets train_20 (a fifth of the training utterances) and train_rest_80 (the others)
# end of options
