"""Models of transformers of random weights, as directories that a teacher is loaded from."""

import json
from pathlib import Path
from typing import Any

import torch

SECONDS = 10  # that Whisper's features are padded to
CONVOLUTIONS = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C")


def whisper() -> tuple[Any, Any]:
    """A Whisper of 2 + 1 layers."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    config = WhisperConfig(
        d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=40, max_source_positions=50 * SECONDS,
        max_target_positions=20, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config), WhisperFeatureExtractor(chunk_length=SECONDS)


def wav2vec2_ctc() -> tuple[Any, Any]:
    """A wav2vec 2.0 whose first layer has a norm over time, for CTC over LETTERS."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    config = Wav2Vec2Config(**SIZES, **CONVOLUTIONS, vocab_size=len(LETTERS), pad_token_id=0)
    return Wav2Vec2ForCTC(config), Wav2Vec2FeatureExtractor(return_attention_mask=False)


def hubert() -> tuple[Any, Any]:
    """A HuBERT with norms over features, as the large ones have."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    config = HubertConfig(**SIZES, **CONVOLUTIONS, feat_extract_norm="layer", do_stable_layer_norm=True)
    return HubertModel(config), Wav2Vec2FeatureExtractor(return_attention_mask=True)


def parakeet_ctc() -> tuple[Any, Any]:
    """A Parakeet for CTC, whose blank is the last class."""
    from transformers import ParakeetCTCConfig, ParakeetFeatureExtractor, ParakeetForCTC

    encoder = {**SIZES, "conv_kernel_size": 9, "subsampling_conv_channels": 8, "num_mel_bins": 80}
    return ParakeetForCTC(ParakeetCTCConfig(vocab_size=9, pad_token_id=8, encoder_config=encoder)), (
        ParakeetFeatureExtractor()
    )


MODELS = {"whisper": whisper, "wav2vec2_ctc": wav2vec2_ctc, "hubert": hubert, "parakeet_ctc": parakeet_ctc}


def save(kind: str, directory: Path) -> Path:
    """Write one of MODELS; the same weights in every call."""
    from transformers import Wav2Vec2CTCTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, extractor = MODELS[kind]()
    model.save_pretrained(directory)
    extractor.save_pretrained(directory)
    if kind == "wav2vec2_ctc":
        (directory / "letters.json").write_text(json.dumps({t: i for i, t in enumerate(LETTERS)}))
        Wav2Vec2CTCTokenizer(str(directory / "letters.json")).save_pretrained(directory)
    return directory
