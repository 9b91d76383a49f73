"""Teachers of transformers: what they give, beside a training and through a store; and what is refused."""

import contextlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import tiny_models
import torch
import yaml
from miniature import write_speech
from recipe import RATE, Recipe
from torch import Tensor

from bench.stand_in_device import DEVICE, counted, to_device
from espnet_kd.commands.inspect import layer_table
from espnet_kd.decoding import evaluate
from espnet_kd.decoding.records import Hypothesis
from espnet_kd.errors import UserError
from espnet_kd.pseudo_label.models import ModelSpec
from espnet_kd.targets import command, worker
from espnet_kd.targets.format import TapFormat
from espnet_kd.targets.store import Store
from espnet_kd.teachers import hugging_face
from espnet_kd.teachers.kinds import Source
from espnet_kd.teachers.model import SpeechError, TeacherModel
from espnet_kd.teachers.options import teacher_options

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow(seconds=15)

TAPS = {
    "whisper": "model.encoder.layers.1",
    "wav2vec2_ctc": "lm_head",
    "hubert": "encoder.layers.0",
    "parakeet_ctc": "encoder.layers.1",
}
ALONE = {"batch_size": 1, "task_weight": 0.5}
SAMPLES = (24000, 17011, 9000)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: tiny_models.save(kind, root / kind) for kind in TAPS}


def load(place: Path | str) -> TeacherModel:
    return Source("hf", str(place)).load()


def criterion(tap: str, **options: object) -> dict:
    return {
        "type": "hidden",
        "student_tap": "encoder",
        "teacher_tap": tap,
        "frame_rate": "resample",
        **options,
    }


def values(teacher: TeacherModel, tap: str, waves: list[Tensor]) -> list[Tensor]:
    """The real values of each utterance of one batch."""
    speech = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True, padding_value=float("nan"))
    with torch.no_grad():
        found = teacher.observer([tap])(speech, torch.tensor([len(w) for w in waves]), *[torch.zeros(0)] * 2)[
            tap
        ]
    return [x[:n] for x, n in zip(found.tensor, found.lengths.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("kind", "name", "layers", "rate"),
    [("whisper", "whisper", 32, 50), ("wavlm", "wavlm", 24, 50), ("parakeet_ctc", "parakeet", 42, 12.5)],
)
def test_the_recipe_of_librispeech_names_layers_that_the_published_models_have(
    tmp_path: Path, kind: str, name: str, layers: int, rate: float
) -> None:
    """Whisper large-v3, WavLM large and Parakeet CTC 1.1B, by their published numbers of layers."""
    conf = Path(__file__).parents[2] / f"egs/librispeech/kd1/conf/kd_hidden_from_{name}.yaml"
    tap = yaml.safe_load(conf.read_text())["criteria"]["rkd"]["teacher_tap"]
    teacher = load(tiny_models.save(kind, tmp_path / "model", layers))
    assert len(values(teacher, tap, [torch.randn(16000 * 4)])[0]) == pytest.approx(4 * rate, abs=1)


@pytest.mark.parametrize("kind", TAPS)
def test_an_utterance_of_a_batch_is_what_transformers_gives_for_it_alone(
    kind: str, models: dict[str, Path]
) -> None:
    teacher, tap = load(models[kind]), TAPS[kind]
    generator = torch.Generator().manual_seed(0)
    waves = [torch.randn(n, generator=generator) for n in SAMPLES]
    model, extractor = tiny_models.MODELS[kind]()
    model.load_state_dict(teacher.model.state_dict())
    body = model.eval().get_encoder() if kind == "whisper" else model.eval()
    for wave, seen in zip(waves, values(teacher, tap, waves), strict=True):
        inputs = extractor(wave.numpy(), sampling_rate=RATE, return_tensors="pt")
        output: dict[str, object] = {}
        handle = model.get_submodule(tap).register_forward_hook(lambda m, i, o, to=output: to.update(x=o))
        with torch.no_grad():
            body(**inputs)
        handle.remove()
        expected = output["x"][0] if isinstance(output["x"], tuple) else output["x"]
        assert len(seen) == pytest.approx(len(wave) / 16000 * (12.5 if kind == "parakeet_ctc" else 50), abs=2)
        torch.testing.assert_close(seen, expected[0, : len(seen)], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "tap"), [("speecht5", "speecht5.encoder.wrapped_encoder.layers.0"),
                      ("moonshine", "model.encoder.layers.0")],
)  # fmt: skip
def test_a_model_that_sees_padding_gets_each_utterance_alone(tmp_path: Path, kind: str, tap: str) -> None:
    teacher = load(tiny_models.save(kind, tmp_path))
    generator = torch.Generator().manual_seed(0)
    waves = [torch.randn(n, generator=generator) / n * SAMPLES[2] for n in SAMPLES]
    for wave, seen in zip(waves, values(teacher, tap, waves), strict=True):
        torch.testing.assert_close(seen, values(teacher, tap, [wave])[0])
    teacher.window = SAMPLES[1]  # as of an extractor that pads
    teacher.extractor.feature_size = 80
    with pytest.raises(SpeechError, match="has 1.5 s, but teacher .* takes 1.06319 s at most") as error:
        values(teacher, tap, [waves[2], waves[0]])
    assert error.value.place == 1


@pytest.mark.parametrize("kind", TAPS)
def test_speech_on_another_device(models: dict[str, Path], kind: str) -> None:
    teacher, tap = load(models[kind]), TAPS[kind]
    generator = torch.Generator().manual_seed(0)
    batch = (
        torch.randn(2, SAMPLES[0], generator=generator), torch.tensor(SAMPLES[:2]),
        torch.ones(2, 3, dtype=torch.long), torch.tensor([3, 2]),
    )  # fmt: skip
    observe = teacher.observer([tap])
    with torch.no_grad():
        expected = observe(*batch)[tap]
        with counted():
            to_device(teacher.model)
            found = observe(*(x.to(DEVICE) for x in batch))[tap]
    assert found.lengths.tolist() == expected.lengths.tolist()
    for one, other, count in zip(found.values.held, expected.values, expected.lengths, strict=True):
        torch.testing.assert_close(one[:count], other[:count], rtol=1e-4, atol=1e-5)


def test_features_are_the_same_under_autocast(models: dict[str, Path]) -> None:
    teacher, wave = load(models["whisper"]), torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    expected = teacher.inputs(wave, torch.tensor([RATE]))[0]["input_features"]
    with torch.autocast("cpu", torch.bfloat16):
        found = teacher.inputs(wave, torch.tensor([RATE]))[0]["input_features"]
    assert torch.equal(found, expected)


def test_special_tokens_have_the_names_that_the_tokenizer_says(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["[PAD]", "[UNK]", " ", "|", "a", "<end>"]
    tokenizer = SimpleNamespace(
        get_vocab=lambda: {name: i for i, name in enumerate(names)},
        unk_token="[UNK]", word_delimiter_token=" ", eos_token="<end>",
    )  # fmt: skip
    monkeypatch.setattr(hugging_face, "read_tokenizer", lambda teacher: tokenizer)
    expected = ["<blank>", "<unk>", "<space>", "|", "a", "<sos/eos>", "<unused6>"]
    assert hugging_face.read_tokens(load(models["wav2vec2_ctc"]), 7) == expected


def test_an_extractor_that_does_not_tell_padding(models: dict[str, Path]) -> None:
    class Extractor:
        """As that of AST."""

        model_input_names, sampling_rate = ("input_values",), RATE

        feature_size = 128

        def __call__(self, raw_speech: list, sampling_rate: int, return_tensors: str) -> None: ...

    teacher = load(models["hubert"])
    teacher.extractor = Extractor()
    with pytest.raises(UserError, match="its Extractor does not say which frames are padding: choose"):
        values(teacher, TAPS["hubert"], [torch.randn(RATE)])


def test_layers_that_give_frames_are_listed(models: dict[str, Path]) -> None:
    table = layer_table(load(models["whisper"]), 4)
    assert "model.encoder.layers.1    50 frames x 16        50 per second" in table
    assert "conv1" not in table and "decoder" not in table
    assert "lm_head" in layer_table(load(models["wav2vec2_ctc"]), 1)


def train(recipe: Recipe, out: str, kind: str, path: Path, **changes: object) -> Path:
    options = {"teacher": {"hf": str(path)}, "criteria": {"enc": criterion(TAPS[kind])}, **ALONE, **changes}
    return recipe.train(out, "student", **options)


def write(recipe: Recipe, store: str, criteria: dict, teacher: dict, *options: str) -> Store:
    with contextlib.chdir(recipe.root):
        Path(f"{store}.yaml").write_text(yaml.safe_dump({"criteria": criteria, "teacher": teacher}))
        words = ["--config", f"{store}.yaml", "--store", store, "--workers", "1", "--number", "float32"]
        command.main([*words, "--data", "dump/raw/train", "dump/raw/dev", *options])
    return Store(recipe.root / store)


@pytest.mark.parametrize("kind", ["whisper", "hubert"])
def test_stored_hidden_vectors_train_as_the_model_beside_the_student(
    kind: str, recipe: Recipe, models: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    online = train(recipe, f"exp/{kind}", kind, models[kind])
    teacher = {"hf": str(models[kind])}
    criteria = {"enc": criterion(TAPS[kind])}
    store = write(recipe, f"exp/{kind}_targets", criteria, teacher)
    assert store.manifest.teachers[0]["experiment"] == str(models[kind])
    write(recipe, f"exp/{kind}_targets", criteria, teacher)
    assert "already there" in capsys.readouterr().out
    stored = train(
        recipe, f"exp/{kind}_stored", kind, models[kind], teacher={**teacher, "store": str(store.directory)}
    )
    ours, theirs = (torch.load(exp / "1epoch.pth", weights_only=True) for exp in (stored, online))
    stock = torch.load(recipe.root / "exp/teacher/1epoch.pth", weights_only=True)
    assert {key.split(".")[0] for key in theirs} == {key.split(".")[0] for key in stock}
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-6)
    optimizer = torch.load(online / "checkpoint.pth", weights_only=True)["optimizers"][0]["state"]
    assert len(optimizer) <= len(theirs) + 2  # and the projection


def message(recipe: Recipe, teacher: dict, criteria: dict) -> str:
    """The message of the error that training ends with."""
    with pytest.raises(UserError) as error:
        recipe.train("exp/refused", "student", teacher=teacher, criteria=criteria)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_layer_that_does_not_exist(recipe: Recipe, models: dict[str, Path]) -> None:
    found = message(recipe, {"hf": str(models["whisper"])}, {"enc": criterion("model.encoder.layer.1")})
    assert (
        "has no layer 'model.encoder.layer.1' to tap; near it: " in found
        and "model.encoder.layers.1" in found
    )
    found = message(recipe, {"hf": str(models["whisper"])}, {"enc": criterion("model.encoder.conv1")})
    assert "gives a tensor of shape (1, 16, 1000), not (B, 500, D) encoder frames" in found


def test_what_cannot_be_loaded(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled, own, empty = tmp_path / "pickled", tmp_path / "own", tmp_path / "empty"
    shutil.copytree(models["hubert"], pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(
        UserError, match="pickled has no weights in safetensors .*, only pytorch_model.bin, which may"
    ):
        load(pickled)
    shutil.copytree(models["hubert"], own)
    config = json.loads((own / "config.json").read_text())
    config |= {"architectures": ["OwnModel"], "auto_map": {"AutoModel": "modeling_own.OwnModel"}}
    (own / "config.json").write_text(json.dumps(config))
    (own / "modeling_own.py").write_text("raise SystemExit('was run')\n")
    with pytest.raises(UserError, match=r"has no OwnModel, and code of its own \(auto_map\) is not run"):
        load(own)
    empty.mkdir()
    with pytest.raises(
        UserError, match="empty has no config.json: give the directory of a model of transformers"
    ):
        load(empty)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match="nobody/nothing is no directory, is not in the cache of Hugging Face"
    ):
        load("nobody/nothing")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="which is not installed .*: install `espnet_kd.hf.`"):
        load(models["hubert"])


def test_speech_that_is_too_long_or_too_short(models: dict[str, Path]) -> None:
    long, short = torch.randn(10 * RATE + 1), torch.randn(300)
    with pytest.raises(
        SpeechError, match=r"has 10.0 s, but teacher .*whisper takes 10 s at most: leave it out"
    ) as e:
        values(load(models["whisper"]), TAPS["whisper"], [torch.randn(RATE), long])
    assert e.value.place == 1
    with pytest.raises(SpeechError, match="is too short: teacher .*hubert has no frame of it"):
        values(load(models["hubert"]), TAPS["hubert"], [torch.randn(RATE), short])


@pytest.mark.parametrize("kind", ["kl", "sequence"])
def test_posteriors_of_letters_train_a_student_of_other_tokens(
    recipe: Recipe, models: dict[str, Path], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Its blank is <pad>, its space |; beside the student and from a store."""
    teacher, ctc = {"hf": str(models["wav2vec2_ctc"])}, {"type": kind, "student_tap": "ctc.ctc_lo"}
    rate = {"frame_rate": "resample"} if kind == "kl" else {}
    criteria = {"ctc": {**ctc, "teacher_tap": "lm_head", **rate}}
    with caplog.at_level("INFO"):
        online = recipe.train(f"exp/letters_{kind}", "student", teacher=teacher, criteria=criteria, **ALONE)
    assert "7 of its 8 tokens are the student's, which has 7" in caplog.text
    store = write(recipe, f"exp/{kind}_letters_targets", criteria, teacher)
    given = {"teacher": {"store": str(store.directory)}, "criteria": criteria}
    stored = recipe.train(f"exp/{kind}_letters_stored", "student", **given, **ALONE)
    ours, theirs = (torch.load(exp / "1epoch.pth", weights_only=True) for exp in (stored, online))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-6)


def test_logits_of_a_model_without_tokens_are_refused(recipe: Recipe, models: dict[str, Path]) -> None:
    kl = {"type": "kl", "student_tap": "ctc.ctc_lo", "teacher_tap": TAPS["hubert"]}
    found = message(recipe, {"hf": str(models["hubert"])}, {"ctc": kl})
    assert "criterion ctc compares distributions over tokens, but teacher" in found
    assert "type: hidden" in found


def test_teachers_of_two_kinds_in_one_ensemble(recipe: Recipe, models: dict[str, Path]) -> None:
    """Refused where what is averaged cannot be compared."""
    kl, letters = {"type": "kl", "tap": "ctc.ctc_lo"}, str(models["wav2vec2_ctc"])
    found = message(recipe, {"exp": "exp/teacher", "hf": letters}, {"ctc": kl})
    assert "teacher exp/teacher has 49 positions at ctc.ctc_lo, teacher " in found
    assert f"{letters} 99 for the same speech" in found
    recipe.train("exp/two_hf", "student", teacher={"hf": [letters, letters]},
                 criteria={"ctc": {**kl, "frame_rate": "resample"}})  # fmt: skip


@pytest.mark.parametrize("kind", ["wav2vec2_ctc", "exp"])
def test_a_teacher_is_evaluated_on_a_set(
    kind: str, recipe: Recipe, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    place = str(models[kind]) if kind in models else "exp/teacher"
    with contextlib.chdir(recipe.root):
        words = [place, "--data", "dump/raw/dev", "--out", str(tmp_path), "--workers", "1"]
        words += ["--inference_args", "--beam_size 2"] if kind == "exp" else []
        evaluate.main(words)
        printed = capsys.readouterr().out
        evaluate.main(words)
        with pytest.raises(UserError, match="^--normalise capitals would spell every word of dump/"):
            evaluate.main([*words, "--normalise", "capitals"])
    assert "1 shards, 1 to decode" in printed and "WER" in printed
    assert "1 shards, 0 to decode" in capsys.readouterr().out
    assert len((tmp_path / "text").read_text().splitlines()) == 3


@pytest.mark.parametrize("rate", [RATE // 2, RATE, 3 * RATE])
@pytest.mark.parametrize(("kind", "size"), [("hubert", 4), ("whisper", 2)])
def test_batches_of_a_store_are_as_long_as_the_teacher_gets_them(
    models: dict[str, Path], tmp_path: Path, kind: str, size: int, rate: int
) -> None:
    """2 s each, 20 s at a time in windows of 10 s, else 8 s, whatever the rate on the disk."""
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", np.full(2 * rate, 0.1), rate)
    taps = {TAPS[kind]: TapFormat("values", 16)}
    seconds = 20.0 if kind == "whisper" else 8.0
    options = teacher_options({"hf": str(models[kind])})
    observer = worker.Observer(worker.spec(options, taps, rate, "cpu", seconds))
    seen: list[int] = []
    observer.teacher.experiments[0].body.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(len(next(iter(inputs.values())))), with_kwargs=True
    )
    found = list(observer.records((f"u{i}", (str(tmp_path / f"{i}.wav"), "")) for i in range(6)))
    assert len(found) == 6 and seen == ([4, 2] if size == 4 else [2, 2, 2])



def test_an_evaluation_of_whisper_reads_longer_speech_in_windows(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    class Reader:
        def __init__(self, spec: ModelSpec, loaded: object) -> None:
            seen.append(spec.directory)

        def transcribe(self, waves: list[np.ndarray]) -> list[tuple[Hypothesis, str]]:
            seen.append((len(waves), len(waves[0]), waves[0].dtype))
            return [(Hypothesis("one two", 2, 0, -1.0), "en")]

    monkeypatch.setattr("espnet_kd.pseudo_label.hugging_face.WhisperLabeller", Reader)
    monkeypatch.setattr("espnet_kd.pseudo_label.hugging_face.WINDOW", 10)
    data = write_speech(tmp_path / "data", {"s1-long": 10 * RATE + 1})
    words = [str(models["whisper"]), "--data", str(data), "--out", str(tmp_path / "out"), "--workers", "1"]
    evaluate.main(words)
    assert seen == [str(models["whisper"]), (1, 10 * RATE + 1, np.float32)]
    assert (tmp_path / "out/text").read_text() == "s1-long one two\n"


def test_an_encoder_decoder_model_is_decoded_by_generate(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tokenizer:
        def batch_decode(self, sequences: Tensor, skip_special_tokens: bool) -> list[str]:
            return [f" {len(row)} tokens" for row in sequences]

    monkeypatch.setattr(hugging_face, "read_tokenizer", lambda teacher: Tokenizer())
    (text, tokens, score), _ = load(models["whisper"]).transcribe(
        torch.randn(2, RATE), torch.tensor([RATE, 9000])
    )
    assert text.endswith(" tokens") and tokens > 0 and score < 0


def test_a_transcript_may_be_as_long_as_the_decoder_allows(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a generation_config.json the default of transformers is 20 tokens."""
    teacher, given = load(models["whisper"]), {}
    teacher.model.config.max_target_positions = 30

    def generate(**options: object) -> None:
        given.update(options)
        raise RuntimeError("enough")

    monkeypatch.setattr(teacher.model, "generate", generate)
    monkeypatch.setattr(hugging_face, "read_tokenizer", lambda teacher: "any")
    with pytest.raises(RuntimeError, match="enough"):
        teacher.transcribe(torch.randn(1, RATE), torch.tensor([RATE]))
    assert given["max_length"] == 30


def test_a_model_that_gives_no_text(models: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="hubert gives no text: only models for CTC or with a decoder"):
        load(models["hubert"]).transcribe(torch.randn(1, RATE), torch.tensor([RATE]))
