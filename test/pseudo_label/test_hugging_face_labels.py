"""Labels from models of Hugging Face: tiny ones of random weights, made from a configuration."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from miniature import write_speech

from espnet_kd.decoding import records
from espnet_kd.decoding.evaluate import load_reader
from espnet_kd.decoding.records import Hypothesis
from espnet_kd.errors import UserError
from espnet_kd.pseudo_label import command, hugging_face, models
from espnet_kd.pseudo_label.models import ModelSpec, numeral_ids
from espnet_kd.teachers.kinds import Source
from espnet_kd.teachers.repository import find_directory, is_multilingual

transformers = pytest.importorskip("transformers")
import torch  # noqa: E402
from tokenizers import Tokenizer, decoders  # noqa: E402
from tokenizers.models import WordLevel  # noqa: E402

WORDS = [*"abcdefgh", "1", "23", "$4"]
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]
UTTERANCES = {"s1-a": 8000, "s1-b": 16000, "s2-c": 12000}


def write_tokenizer(path: Path, tokens: list[str], **options: str) -> None:
    tokenizer = Tokenizer(WordLevel({t: i for i, t in enumerate(tokens)}, tokens[0]))
    tokenizer.decoder = decoders.Fuse()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(path)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of two languages whose encoder has one layer of eight values, with 30 s of audio."""
    path = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(1)
    end = len(WORDS)
    config = transformers.WhisperConfig(
        vocab_size=end + len(SPECIAL) + 1501, num_mel_bins=4, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, d_model=8,
        max_target_positions=12, decoder_start_token_id=end + 1, eos_token_id=end, bos_token_id=end,
        pad_token_id=end, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    model.proj_out.weight.data[:end].mul_(50)  # so that there are texts, and not the same ones
    languages, task = {"<|en|>": end + 2, "<|de|>": end + 3}, {"transcribe": end + 4}
    values = {"is_multilingual": True, "lang_to_id": languages, "task_to_id": task}
    for name, value in (values | {"_from_model_config": False}).items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(path)
    transformers.WhisperFeatureExtractor(feature_size=4).save_pretrained(path)
    write_tokenizer(path, [*WORDS, *SPECIAL], eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    return path


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wav2vec 2.0 with one layer and a CTC layer."""
    path = tmp_path_factory.mktemp("ctc")
    torch.manual_seed(1)
    config = transformers.Wav2Vec2Config(
        vocab_size=6, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        conv_dim=(8, 8), conv_stride=(80, 4), conv_kernel=(160, 4), num_feat_extract_layers=2, pad_token_id=0,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    model = transformers.Wav2Vec2ForCTC(config)
    model.lm_head.weight.data.mul_(50)
    model.save_pretrained(path)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(path)
    write_tokenizer(path, ["<pad>", *"abcde"], pad_token="<pad>")
    return path


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_speech(tmp_path / "dump", UTTERANCES)


def spec(path: Path, **options: object) -> ModelSpec:
    values = {"device": "cpu", "batch_size": 2, "beam_size": 1, "language": None, "suppress_numerals": False}
    return ModelSpec(str(path), **(values | options))


def label(data: Path, model: Path, *options: str) -> list[records.DecodedUtterance]:
    limits = ("--max_rate", "1e9", "--min_rate", "0", "--max_repeats", "1000")
    places = ("--data", str(data), "--dst", "dst", "--workers", "1")
    command.main([*places, "--labeller", "hf", "--model", str(model), *limits, *options])
    directory = options[options.index("--decode_dir") + 1] if "--decode_dir" in options else "dst/decode"
    return list(records.read_decoded(Path(directory)))


def test_whisper_gives_text_scores_entropy_and_times(data: Path, whisper: Path) -> None:
    found = label(data, whisper, "--batch_size", "2", "--max_entropy", "100")
    assert [(record.utt, record.samples) for record in found] == list(UTTERANCES.items())
    model = hugging_face.load_model(spec(whisper.resolve()))
    for record in found:
        best = record.nbest[0]
        assert best.score < 0 and 0 < best.entropy < np.log(model.model.config.vocab_size)
        assert best.tokens <= 12 and set(best.text) <= set("".join(WORDS))
        assert all(0 <= begin <= end <= 30 for begin, end, _ in best.segments)
        assert record.language in ("en", "de")
    manifest = json.loads(Path("dst/manifest.json").read_text())
    assert manifest["labeller"] == "hf" and manifest["teacher"]["model"] == str(whisper)
    assert len(manifest["teacher"]["model.safetensors"]) == 64


def test_whisper_can_be_told_the_language(data: Path, whisper: Path) -> None:
    for language in ("en", "de"):
        found = label(data, whisper, "--spoken_language", language, "--decode_dir", language)
        assert {record.language for record in found} == {language}


def test_the_score_is_the_log_probability_of_text_and_end(whisper: Path) -> None:
    """Tokens a, c and the end after the prompt; the time between them counts in neither text nor score."""
    model = hugging_face.load_model(spec(whisper))
    end, time = model.end, model.first_time
    sequence = torch.tensor([end + 1, 0, time + 50, 2, end, end])
    encoded = torch.randn(1, 1500, 8, generator=torch.Generator().manual_seed(0))
    hypothesis, language = model._found(encoded, sequence)
    logits = model.model(encoder_outputs=(encoded,), decoder_input_ids=sequence[None, :4]).logits[0]
    log_p = logits.log_softmax(-1)
    expected = log_p[0, 0] + log_p[2, 2] + log_p[3, end]
    assert (hypothesis.text, hypothesis.tokens, language) == ("ac", 2, None)
    assert hypothesis.score == pytest.approx(expected.item(), abs=1e-3)
    assert hypothesis.entropy == pytest.approx(
        sum(-(log_p[i].exp() * log_p[i]).sum().item() for i in (0, 2, 3)) / 3, abs=1e-3
    )
    assert hypothesis.segments == ((0.0, 1.0, "a"),)
    found = model._found(encoded, torch.tensor([end + 1, end + 3, end + 4, end]))
    assert (found[0].text, found[1]) == ("", "de")


def test_numbers_can_be_kept_out(whisper: Path) -> None:
    assert numeral_ids(enumerate(WORDS)) == [8, 9, 10]
    model = hugging_face.WhisperLabeller(spec(whisper, suppress_numerals=True))
    assert model.model.generation_config.suppress_tokens == [8, 9, 10]


def test_text_behind_the_last_whole_segment_waits_for_the_next_window(whisper: Path) -> None:
    model = hugging_face.load_model(spec(whisper))
    end, time = model.end, model.first_time
    encoded = torch.zeros(1, 1500, 8)
    for tokens, text in (
        ([0, time + 50, time + 60, 2, end], "a"),
        ([0, time + 50, end], "a"),
        ([0, 2, end], "ac"),  # no whole segment: all of it
    ):
        found = model._found(encoded, torch.tensor([end + 1, *tokens]), cut=True)[0]
        assert (found.text, found.tokens) == (text, len(text))


def test_longer_speech_than_whisper_reads_is_read_in_windows(
    whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that finds a segment of 20 s in every window: the next begins there."""
    model = hugging_face.WhisperLabeller(spec(whisper))
    seen: list[tuple[float, float, bool]] = []

    def window(waves: list[np.ndarray], cut: bool = False) -> list[hugging_face.Found]:
        (wave,) = waves
        seen.append((float(wave[0]), len(wave) / model.rate, cut))
        name = f"w{len(seen)}"
        segments = () if len(seen) == 3 else ((0.5, 20.0, name),)
        return [(Hypothesis(name, 2, 0, -1.0, {}, 0.1 * len(seen), segments), "de" if cut else "en")]

    monkeypatch.setattr(model, "_transcribe_window", window)
    wave = (np.arange(100 * model.rate) // model.rate).astype(np.float32)  # each sample is its second
    ((found, language),) = model.transcribe([wave])
    # the third has no segment, so the fourth begins behind it
    assert seen == [(0, 30, True), (20, 30, True), (40, 30, True), (70, 30, False)]
    assert (found.text, found.tokens, found.score, language) == ("w1 w2 w3 w4", 8, -4.0, "de")
    assert found.entropy == pytest.approx(0.25)
    assert found.segments == ((0.5, 20.0, "w1"), (20.5, 40.0, "w2"), (70.5, 90.0, "w4"))


def test_a_long_recording_gives_what_its_windows_give(whisper: Path) -> None:
    model = hugging_face.load_model(spec(whisper))
    wave = np.random.default_rng(0).standard_normal(31 * model.rate).astype(np.float32) / 9
    ((found, _),) = model.transcribe([wave])
    first, second = (model.transcribe([wave[part]])[0][0] for part in (slice(480000), slice(480000, None)))
    assert not first.segments, "so the second window begins behind the first"
    assert found.text == f"{first.text} {second.text}" and first.text and second.text
    assert found.score == pytest.approx(first.score + second.score, abs=1e-3)


def test_an_evaluation_reads_longer_speech_with_the_weights_in_memory(whisper: Path) -> None:
    teacher = Source("hf", str(whisper)).load()
    before = teacher.model.generation_config.to_dict()
    reader = load_reader(teacher, "cpu")
    assert reader.model.proj_out.weight is teacher.model.proj_out.weight
    assert reader.model.generation_config.no_timestamps_token_id == reader.first_time - 1
    assert teacher.model.generation_config.to_dict() == before
    wave = np.random.default_rng(0).standard_normal(31 * reader.rate).astype(np.float32) / 9
    assert reader.transcribe([wave]) == hugging_face.load_model(spec(whisper)).transcribe([wave])


def test_a_ctc_model_takes_the_best_token_of_every_frame(data: Path, ctc: Path) -> None:
    found = label(data, ctc, "--batch_size", "1")
    model = hugging_face.load_model(spec(ctc.resolve(), batch_size=1))
    speech, samples, _ = models.speech_of(str(data / "s1-a.wav"), "s1-a", 16000)
    with torch.inference_mode():
        log_p = model.model(torch.from_numpy(speech)[None]).logits.log_softmax(-1)[0]
    best = found[0].nbest[0]
    assert samples == 8000 and best.score == pytest.approx(log_p.max(-1).values.sum().item(), abs=1e-2)
    path = log_p.argmax(-1).tolist()
    collapsed = [t for i, t in enumerate(path) if t and (i == 0 or path[i - 1] != t)]
    assert best.text.replace(" ", "") == "".join(" abcde"[t] for t in collapsed)
    assert best.tokens == len(collapsed) > 0 and len(best.segments) == 1


@pytest.mark.parametrize(("norm", "mask"), [("group", False), ("group", True), ("layer", True)])
def test_a_ctc_label_does_not_depend_on_its_batch(norm: str, mask: bool, tmp_path: Path) -> None:
    """Not through a norm over time that has no mask, nor through a frame of padding that is counted."""
    torch.manual_seed(3)
    config = transformers.Wav2Vec2Config(
        vocab_size=6, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        conv_dim=(8, 8), conv_stride=(80, 4), conv_kernel=(160, 4), num_feat_extract_layers=2, pad_token_id=0,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, feat_extract_norm=norm,
    )  # fmt: skip
    model = transformers.Wav2Vec2ForCTC(config)
    model.lm_head.weight.data.mul_(50)
    model.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=mask).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, ["<pad>", *"abcde"], pad_token="<pad>")
    labeller = hugging_face.CTCLabeller(spec(tmp_path))
    noise = np.random.default_rng(0)
    waves = [noise.standard_normal(n).astype(np.float32) for n in (8000, 12000, 16000)]
    for wave, (found, _) in zip(waves, labeller.transcribe(waves), strict=True):
        (alone, _) = labeller.transcribe([wave])[0]
        assert found.text == alone.text and found.score == pytest.approx(alone.score, abs=1e-3)


def test_speech_without_a_frame_has_no_label(data: Path, ctc: Path) -> None:
    """In a batch it would get that of a frame of padding; alone it would end the command."""
    labeller = hugging_face.CTCLabeller(spec(ctc))
    waves = [np.full(n, 0.1, np.float32) for n in (100, 8000, 399)]
    found = labeller.transcribe(waves)
    assert found == [(None, None), *labeller.transcribe(waves[1:2]), (None, None)]
    assert labeller.transcribe(waves[:1]) == [(None, None)]
    assert labeller.transcribe([np.full(400, 0.1, np.float32)])[0][0] is not None  # 160 and 3 steps of 80


def test_a_ctc_label_with_tokens_that_are_no_text_is_dropped(data: Path, ctc: Path, tmp_path: Path) -> None:
    """Such a token would be in the transcript by its name, as "a<unk>b"."""
    shutil.copytree(ctc, tmp_path / "model")
    write_tokenizer(tmp_path / "model", ["<pad>", "<unk>", "</s>", *"cde"], pad_token="<pad>",
                    unk_token="<unk>", eos_token="</s>")  # fmt: skip
    found = {record.utt: record.nbest[0] for record in label(data, tmp_path / "model")}
    names = {utt: best.text.count("<unk>") + best.text.count("</s>") for utt, best in found.items()}
    assert names == {utt: best.unknown for utt, best in found.items()} and 0 < sum(names.values())
    kept = [line.split()[0] for line in Path("dst/text").read_text().splitlines()]
    assert kept == [utt for utt, count in names.items() if not count]


def test_an_evaluation_gives_the_text_of_a_label(ctc: Path) -> None:
    """This tokenizer is not made for CTC: it leaves tokens that repeat in several frames in the text."""
    wave = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    ((found, _),) = hugging_face.CTCLabeller(spec(ctc)).transcribe([wave])
    ((text, tokens, score),) = Source("hf", str(ctc)).load().transcribe(
        torch.from_numpy(wave)[None], torch.tensor([len(wave)])
    )
    assert (text, tokens) == (found.text, found.tokens)
    assert score == pytest.approx(found.score, abs=1e-3)


def test_a_language_that_a_model_cannot_be_told_is_refused(
    data: Path, whisper: Path, ctc: Path, tmp_path: Path
) -> None:
    shutil.copytree(whisper, english := tmp_path / "english")
    content = json.loads((english / "generation_config.json").read_text()) | {"is_multilingual": False}
    (english / "generation_config.json").write_text(json.dumps(content))
    for model, what in ((ctc, "is no Whisper"), (english, "is a Whisper of English alone")):
        with pytest.raises(UserError, match=f"^--spoken_language: .*{what}, and cannot be told the language"):
            label(data, model, "--spoken_language", "de")
        assert not Path("dst").exists()
        with pytest.raises(UserError, match=f"^teacher .*{what}, and cannot be told the language 'de'"):
            Source("hf", str(model), (("language", "de"),)).load()
    Source("hf", str(english), (("language", "en"), ("task", "transcribe"))).load()
    assert Source("hf", str(whisper), (("language", "de"),)).load().prompt == {"language": "de"}
    (whisper_of_old := tmp_path / "old").mkdir()
    (whisper_of_old / "config.json").write_text('{"model_type": "whisper", "vocab_size": 51865}')
    assert is_multilingual(whisper_of_old)


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    write_speech(tmp_path, {"s1-a": 8000}, rate=8000)
    speech, samples, rate = models.speech_of(str(tmp_path / "s1-a.wav"), "s1-a", 16000)
    assert (len(speech), samples, rate) == (16000, 8000, 8000)


def test_a_damaged_model_is_refused(whisper: Path, ctc: Path, tmp_path: Path, data: Path) -> None:
    from safetensors.torch import load_file, save_file

    def changed(source: Path, **config: object) -> Path:
        path = tmp_path / f"model{len(list(tmp_path.glob('model*')))}"
        path.mkdir()
        for file in source.iterdir():
            (path / file.name).write_bytes(file.read_bytes())
        content = json.loads((path / "config.json").read_text()) | config
        (path / "config.json").write_text(json.dumps(content))
        return path

    path = changed(ctc)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(UserError, match="has no weights in safetensors .*, only pytorch_model.bin"):
        label(data, path)
    path = changed(ctc)
    with (path / "model.safetensors").open("r+b") as f:
        f.truncate(1000)
    with pytest.raises(UserError, match="/model.safetensors is damaged: .*: copy or download it again"):
        label(data, path)
    with pytest.raises(UserError, match="it needs code of its own, which is never run"):
        label(data, changed(ctc, model_type="own", auto_map={"AutoConfig": "code.Config"}))
    with pytest.raises(UserError, match="is a Wav2Vec2Model: labels come from Whisper and from models"):
        label(data, changed(ctc, architectures=["Wav2Vec2Model"]))
    assert not Path("dst").exists()
    path = changed(ctc)
    for file in path.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match=f"{path} has no tokenizer that can be read, without which there is"):
        label(data, path)
    shutil.rmtree("dst")
    path = changed(ctc)
    weights = load_file(path / "model.safetensors")
    weights.pop("wav2vec2.masked_spec_embed")  # only a training reads it, and some models lack it
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    assert label(data, path)
    shutil.rmtree("dst")
    path = changed(ctc)
    del weights["lm_head.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 tensors of a Wav2Vec2ForCTC, such as lm_head.weight"):
        label(data, path)
    path = changed(ctc)
    weights["lm_head.weight"] = torch.full((6, 8), float("nan"))
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    shutil.rmtree("dst")
    with pytest.raises(UserError, match="cannot be transcribed: the score of .* is nan"):
        label(data, path)
    assert not Path("dst/wav.scp").exists()


def test_models_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(name: str, **options: object) -> None:
        assert not any("bin" in pattern or "py" in pattern for pattern in options["allow_patterns"])
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    message = "is no directory, is not in the cache of Hugging Face, and cannot be fetched: "
    with pytest.raises(UserError, match=f"^--model user/model {message}no network: give a directory, or a"):
        find_directory("user/model", None, "--model")
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"^--model a/b/c {message}"):
        find_directory("a/b/c", None, "--model")


