# Sourced by kd.sh: options of this recipe in addition to those of kd.sh; they are exported to local/data.sh.
# shellcheck disable=SC2034
# options
# Switchboard
swbd=      # list: directories of LDC97S62 (audio), and of swb_ms98_transcriptions, which is downloaded otherwise
eval2000=  # list: directories of LDC2002S09 (speech) and LDC2002T43 (transcripts) of Hub5'00
rt03=      # list: directories of LDC2007S10; makes the test set rt03: --test_sets "eval2000 rt03"
fisher=    # list: directories of LDC2004T19 and LDC2005T19; makes data/lm_train.txt, text for a language model
# end of options
