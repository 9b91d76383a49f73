# Sourced by kd.sh: options of this recipe beside those of kd.sh, exported to local/data.sh.
# shellcheck disable=SC2034
# options
# CSJ
csj=                        # the corpus: directory of MORPH and WAV (USB), or of dvd3, dvd4, ... (DVD)
csj_like_espnet=true        # true: texts and sets of ESPnet's recipe to the letter; false: tags resolved cleanly, with dialogues
# end of options
