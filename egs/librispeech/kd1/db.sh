# Sourced by kd.sh: options of this recipe in addition to those of kd.sh; they are exported to local/data.sh.
# shellcheck disable=SC2034
# options
# LibriSpeech
librispeech=https://www.openslr.org/resources/12  # directory LibriSpeech, directory of <part>.tar.gz, or URL of a mirror
librispeech_parts=          # list: parts such as dev-clean; empty for those that the sets need
librispeech_lm=https://www.openslr.org/resources/11/librispeech-lm-norm.txt.gz  # file or URL of sentences for language models;
                            # data/local/other_text/text of them is made if --lm_train_text names it and --use_lm is true
librilight=                 # directory of Libri-Light, or any tree of flac files; makes the unlabelled set librilight
librilight_cut=speech       # speech: between pauses, by the .json beside each file; length: every 15 seconds
# end of options
