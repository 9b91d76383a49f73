"""docs/from_asr_sh.md has a row for every option of asr.sh, and what it says of kd.sh is there."""

import re
from collections import Counter

from pages import ROOT

PAGE = (ROOT / "docs" / "from_asr_sh.md").read_text()
KD_SH = (ROOT / "egs/TEMPLATE/kd1/kd.sh").read_text()
# Of egs2/TEMPLATE/asr1/asr.sh as of October 2025.
ASR_SH = """
    stage stop_stage skip_stages skip_data_prep skip_train skip_eval skip_packing skip_upload_hf
    eval_valid_set ngpu num_nodes nj inference_nj gpu_inference dumpdir expdir python use_lightning
    local_data_opts post_process_local_data_opts auxiliary_data_tags speed_perturb_factors feats_type
    audio_format multi_columns_input_wav_scp multi_columns_output_wav_scp fs min_wav_duration
    max_wav_duration token_type nbpe bpemode oov blank sos_eos bpe_input_sentence_size bpe_nlsyms
    bpe_char_cover hugging_face_model_name_or_path use_ngram ngram_exp ngram_num use_lm lm_tag lm_exp
    lm_stats_dir lm_config lm_args use_word_lm num_splits_lm word_vocab_size use_prompt use_lang_prompt
    use_nlp_prompt asr_task asr_tag asr_exp asr_stats_dir asr_config asr_args pretrained_model
    ignore_init_mismatch feats_normalize num_splits_asr num_ref num_inf sot_asr hf_repo use_k2
    k2_ctc_decoding use_nbest_rescoring num_paths nll_batch_size k2_config use_streaming use_maskctc
    batch_size inference_tag inference_config inference_args inference_lm inference_ngram
    inference_asr_model download_model train_set valid_set test_sets bpe_train_text lm_train_text
    lm_dev_text lm_test_text nlsyms_txt cleaner hyp_cleaner g2p lang score_opts local_score_opts
    asr_speech_fold_length asr_text_fold_length lm_fold_length
""".split()


def rows() -> list[list[str]]:
    """The cells of the table of options, without its heading."""
    table = PAGE.partition("<!-- options -->")[2].partition("<!-- end of options -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_option_of_asr_sh_has_one_row() -> None:
    named = Counter(name for left, *_ in rows() for name in left.split(", "))
    assert named == Counter(ASR_SH)


def test_every_option_of_kd_sh_that_is_named_exists() -> None:
    options = set(re.findall(r"^([a-z]\w*)=", KD_SH.partition("# end of options")[0], re.MULTILINE))
    named = set(re.findall(r"`--(\w+)`", " ".join(right for _, right, _ in rows())))
    assert len(named) > 50 and named <= options


def test_an_option_of_both_is_in_its_own_row() -> None:
    """An option that kd.sh has under the same name is not said to be missing."""
    options = set(re.findall(r"^([a-z]\w*)=", KD_SH.partition("# end of options")[0], re.MULTILINE))
    for left, right, _ in rows():
        for name in set(left.split(", ")) & options:
            assert f"`--{name}`" in right, name


def test_an_option_without_a_counterpart_has_a_reason() -> None:
    assert not [left for left, right, reason in rows() if not right and not reason]


def test_the_defaults_that_are_named_are_those_of_kd_sh() -> None:
    assert re.search(r"^use_lm=false ", KD_SH, re.MULTILINE)
    assert re.search(r"^stop_stage=12 ", KD_SH, re.MULTILINE)
    assert re.search(r"^token_type=char ", KD_SH, re.MULTILINE)
    assert re.search(r"^skip_packing=false ", KD_SH, re.MULTILINE)
    assert "--fold_length 80000 --fold_length 150" in (
        ROOT / "egs/TEMPLATE/kd1/utils/training.sh"
    ).read_text()
