# Sourced by kd.sh: options of this recipe in addition to those of kd.sh; they are exported to local/data.sh.
# shellcheck disable=SC2034
# options
# Switchboard
swbd=      # list: directories of LDC97S62 (audio) and of swb_ms98_transcriptions (http://www.openslr.org/5)
eval2000=  # list: directories of LDC2002S09 (speech) and LDC2002T43 (transcripts) of Hub5'00
# end of options
