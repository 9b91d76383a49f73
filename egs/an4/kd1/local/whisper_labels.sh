#!/usr/bin/env bash
# Label sets of AN4 with Whisper, bring the labels into the form of the transcripts, filter them, and write the error rates
# of all that to whisper/LABELS_<set>.md. Interrupted, the same command goes on.
# Needs:   stages 1 to 5 of ./run.sh; pip install 'espnet_kd[hf,labels]'.
# Cost:    the test set: 2 x 190 s on one core of an AMD EPYC.
# Command: local/whisper_labels.sh downloads/whisper-tiny.en test
set -euo pipefail
# shellcheck source=../path.sh
. ./path.sh

model=$1
out=exp/whisper/labels
form=(brackets letters capitals dates digits punctuation replace:local/words.yaml upper)

for set in "${@:2}"; do
    rows=()
    # label NAME TITLE FIGURES_OR_WORDS OPTION...: write a set of labels; those of figures share a decode, those of words another.
    label() {
        local how=() name=$1 title=$2 numbers=$3
        [ "${numbers}" = figures ] || how=(--suppress_numerals)
        "${python:-python3}" -m espnet_kd pseudo-label --labeller hf --model "${model}" --batch_size 8 --shards 4 --workers 1 \
            --data "dump/raw/${set}" --references "dump/raw/${set}/text" --decode_dir "${out}/${set}_decoded_${numbers}" \
            --dst "${out}/${set}_${name}" "${how[@]}" "${@:4}"
        rows+=("${title}=${out}/${set}_${name}")
    }
    label raw "raw" figures
    label simple "case and punctuation" figures --normalise punctuation upper
    label form "normalised" figures --normalise "${form[@]}"
    label form_top "normalised, best 80 %" figures --normalise "${form[@]}" --max_compression 2.4 --keep_top 80
    label words "numbers as words, normalised" words --normalise "${form[@]}"
    label words_top "numbers as words, normalised, best 80 %" words --normalise "${form[@]}" --max_compression 2.4 --keep_top 80
    label agree "normalised, agrees with numbers as words" figures --normalise "${form[@]}" --agree_with "${out}/${set}_decoded_words" \
        --max_disagreement 0
    "${python:-python3}" -m espnet_kd label-table --title "Labels of AN4's ${set} set by ${model##*/}" --out "whisper/LABELS_${set}.md" "${rows[@]}"
done
