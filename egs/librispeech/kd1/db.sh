# Sourced by kd.sh: options of this recipe beside those of kd.sh, exported to local/data.sh.
# shellcheck disable=SC2034
# options
# LibriSpeech
librispeech=https://www.openslr.org/resources/12  # directory LibriSpeech, directory of <part>.tar.gz, or URL of a mirror
librispeech_parts=          # list: parts such as dev-clean; empty for those that --train_set, --valid_set and --test_sets need
# end of options
