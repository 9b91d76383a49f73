"""Models of transformers of random weights, as directories that a teacher is loaded from."""

import json
from pathlib import Path
from typing import Any

import torch

SECONDS = 10  # that Whisper's features are padded to
CONVOLUTIONS = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C")


def whisper(layers: int = 2) -> tuple[Any, Any]:
    """A Whisper of 2 + 1 layers, or of more in the encoder."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    config = WhisperConfig(
        d_model=16, encoder_layers=layers, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=40,
        max_source_positions=50 * SECONDS,
        max_target_positions=20, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config), WhisperFeatureExtractor(chunk_length=SECONDS)


def wav2vec2_ctc(layers: int = 2) -> tuple[Any, Any]:
    """A wav2vec 2.0 whose first layer has a norm over time, for CTC over LETTERS."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        **SIZES, **CONVOLUTIONS, num_hidden_layers=layers, vocab_size=len(LETTERS), pad_token_id=0
    )
    return Wav2Vec2ForCTC(config), Wav2Vec2FeatureExtractor(return_attention_mask=False)


def hubert(layers: int = 2) -> tuple[Any, Any]:
    """A HuBERT with norms over features, as the large ones have."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    return HubertModel(HubertConfig(**large(layers))), Wav2Vec2FeatureExtractor(return_attention_mask=True)


def wavlm(layers: int = 2) -> tuple[Any, Any]:
    """A WavLM with norms over features, as the large one has."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    return WavLMModel(WavLMConfig(**large(layers))), Wav2Vec2FeatureExtractor(return_attention_mask=True)


def large(layers: int) -> dict[str, Any]:
    """Options of large models of the kind of HuBERT."""
    norms = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
    return {**SIZES, **CONVOLUTIONS, **norms, "num_hidden_layers": layers}


def parakeet_ctc(layers: int = 2) -> tuple[Any, Any]:
    """A Parakeet for CTC, whose blank is the last class."""
    from transformers import ParakeetCTCConfig, ParakeetFeatureExtractor, ParakeetForCTC

    encoder = {**SIZES, "num_hidden_layers": layers, "num_mel_bins": 80}
    encoder |= {"conv_kernel_size": 9, "subsampling_conv_channels": 8}
    return ParakeetForCTC(ParakeetCTCConfig(vocab_size=9, pad_token_id=8, encoder_config=encoder)), (
        ParakeetFeatureExtractor()
    )


def speecht5(layers: int = 2) -> tuple[Any, Any]:
    """A SpeechT5, whose norm over time is elsewhere than that of wav2vec 2.0, and which tells no frames."""
    from transformers import SpeechT5Config, SpeechT5FeatureExtractor, SpeechT5ForSpeechToText

    sides = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in (
        ("layers", layers), ("attention_heads", 2), ("ffn_dim", 32),
    )}  # fmt: skip
    config = SpeechT5Config(vocab_size=9, hidden_size=16, **sides, **CONVOLUTIONS)
    return SpeechT5ForSpeechToText(config), SpeechT5FeatureExtractor()


def moonshine(layers: int = 2) -> tuple[Any, Any]:
    """A Moonshine, with another norm over time, which tells the frames of one utterance alone."""
    from transformers import MoonshineConfig, MoonshineForConditionalGeneration, Wav2Vec2FeatureExtractor

    sides = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in (
        ("num_hidden_layers", layers), ("num_attention_heads", 2),
    )}  # fmt: skip
    config = MoonshineConfig(vocab_size=9, hidden_size=16, intermediate_size=32, **sides)
    return MoonshineForConditionalGeneration(config), Wav2Vec2FeatureExtractor(do_normalize=False)


MODELS = {"whisper": whisper, "wav2vec2_ctc": wav2vec2_ctc, "hubert": hubert, "wavlm": wavlm,
          "parakeet_ctc": parakeet_ctc, "speecht5": speecht5, "moonshine": moonshine}  # fmt: skip


def save(kind: str, directory: Path, layers: int = 2) -> Path:
    """Write one of MODELS with a number of encoder layers; the same weights in every call."""
    from transformers import Wav2Vec2CTCTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, extractor = MODELS[kind](layers)
    model.save_pretrained(directory)
    extractor.save_pretrained(directory)
    if kind == "wav2vec2_ctc":
        (directory / "letters.json").write_text(json.dumps({t: i for i, t in enumerate(LETTERS)}))
        Wav2Vec2CTCTokenizer(str(directory / "letters.json")).save_pretrained(directory)
    return directory
