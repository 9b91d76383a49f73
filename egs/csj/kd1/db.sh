# Sourced by kd.sh: options of this recipe in addition to those of kd.sh; they are exported to local/data.sh.
# shellcheck disable=SC2034
# options
# CSJ
csj=                        # the corpus: directory of MORPH and WAV (USB), or of dvd3, dvd4, ... (DVD)
csj_like_espnet=true        # true: exactly the texts and sets of ESPnet's recipe; false: all tags resolved, and with dialogues
# end of options
