# Sourced by kd.sh: options of this recipe in addition to those of kd.sh; they are exported to local/data.sh.
# shellcheck disable=SC2034
# options
# LibriSpeech
librispeech=https://www.openslr.org/resources/12  # directory LibriSpeech, directory of <part>.tar.gz, or URL of a mirror
librispeech_parts=          # list: parts such as dev-clean; empty for those that the sets need
librilight=                 # directory of Libri-Light, or any tree of flac files; makes the unlabelled set librilight
librilight_cut=speech       # speech: between pauses, by the .json beside each file; length: every 15 seconds
# end of options
