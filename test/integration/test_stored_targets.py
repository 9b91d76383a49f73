"""Targets of real teachers on disk: training from them equals training beside the teachers."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from recipe import KL, MODELS, RATE, Recipe

from espnet_kd import criteria as registry
from espnet_kd.criteria.distribution import KLDivergence
from espnet_kd.data.audio import read_speech
from espnet_kd.errors import UserError
from espnet_kd.files import read_table
from espnet_kd.methods.distilled import aligned
from espnet_kd.schedule import Schedule
from espnet_kd.targets import command, worker
from espnet_kd.targets.format import read_cost
from espnet_kd.targets.store import Store
from espnet_kd.targets.teacher import StoredTeacher
from espnet_kd.teachers.options import Term, common_temperatures, teacher_options, term_options
from espnet_kd.teachers.taps import Targets

pytestmark = pytest.mark.slow(seconds=15)

ENSEMBLE = ["exp/teacher", "exp/second"]
TOPK = {"type": "topk", "weight": 0.5, "k": 3, "reduction": "utterance"}
CRITERIA = {"ctc": {**TOPK, "tap": "ctc.ctc_lo"}, "att": {**TOPK, "tap": "decoder", "tail": "other"}}
HIDDEN = {"enc": {"type": "hidden", "tap": "encoder", "reduction": "utterance"}}
# Alone in its batch, as when targets are written: the last frames of a Conformer depend on its padding.
ALONE = {"batch_size": 1, "task_weight": 0.5}


def write(recipe: Recipe, store: str, criteria: dict, teachers: list[str], *options: str) -> Store:
    with contextlib.chdir(recipe.root):
        config = Path(f"{store}.yaml")
        config.write_text(yaml.safe_dump({"criteria": criteria}))
        words = ["--config", str(config), "--store", store, "--workers", "1", "--teacher", *teachers]
        command.main([*words, "--data", "dump/raw/train", "dump/raw/dev", *options])
    return Store(recipe.root / store)


@pytest.fixture(scope="module")
def ensemble(recipe: Recipe) -> Recipe:
    """A second teacher: the first one with other numbers."""
    directory = recipe.root / "exp/second"
    directory.mkdir(exist_ok=True)
    shutil.copy(recipe.root / "exp/teacher/config.yaml", directory)
    state = torch.load(recipe.root / "exp/teacher/valid.acc.ave.pth", weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name in ("ctc.ctc_lo.weight", "decoder.output_layer.weight"):
        state[name] = state[name] + torch.randn(state[name].shape, generator=generator)
    torch.save(state, directory / "valid.acc.ave.pth")
    return recipe


def statistics(exp: Path) -> dict[str, dict[str, float]]:
    return torch.load(exp / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]


def test_training_from_stored_targets_equals_training_beside_the_teachers(
    ensemble: Recipe, capsys: pytest.CaptureFixture
) -> None:
    write(ensemble, "exp/targets", CRITERIA, ENSEMBLE, "--number", "float32")
    printed = capsys.readouterr().out
    assert "1 shards, 1 to make" in printed and "expected for all: " in printed and "made in" in printed
    online = ensemble.train("exp/online", "student", teacher={"exp": ENSEMBLE}, criteria=CRITERIA, **ALONE)
    teacher = {"exp": ENSEMBLE, "store": "exp/targets"}
    stored = ensemble.train("exp/stored", "student", teacher=teacher, criteria=CRITERIA, **ALONE)
    for part in ("train", "valid"):
        ours, theirs = statistics(stored)[part], statistics(online)[part]
        for name in [n for n in theirs if "loss" in n]:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6), (part, name)
    weights = [torch.load(exp / "1epoch.pth", weights_only=True) for exp in (online, stored)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_tables_in_parts(ensemble: Recipe) -> None:
    """Stock recipes cut large tables into parts, ``--num_splits_asr 2``."""
    from espnet2.bin.split_scps import split_scps

    from espnet_kd.tasks.asr import ASRDistillationTask

    write(ensemble, "exp/split-targets", {"ctc": CRITERIA["ctc"]}, ["exp/teacher"])
    whole = {Path(f).name: f for f in ("dump/raw/train/wav.scp", "dump/raw/train/text",
             "stats/train/speech_shape", "stats/train/text_shape.char")}  # fmt: skip
    with contextlib.chdir(ensemble.root):
        split_scps(list(whole.values()), 2, None, "splits", "WARNING")
        options = ensemble.training("exp/split", "student", teacher={"store": "exp/split-targets"},
                                    criteria={"ctc": CRITERIA["ctc"]}, multiple_iterator=True)  # fmt: skip
        for name, path in whole.items():
            options = [option.replace(path, f"splits/{name}") for option in options]
        ASRDistillationTask.main(cmd=options)
        assert statistics(Path("exp/split"))["train"]["loss_kd_ctc"] > 0
        lines = Path("splits/wav.scp/split.1").read_text().splitlines()
        Path("splits/wav.scp/split.1").write_text("".join(f"{line}\n" for line in ["new x.wav", *lines]))
        with pytest.raises(UserError, match=r"no targets of utterance new of splits/wav.scp/split.1"):
            ASRDistillationTask.main(cmd=[*options, "--dry_run", "true"])


@pytest.fixture(scope="module")
def loud(ensemble: Recipe) -> Recipe:
    """A teacher whose speech is brought to one volume, and noise for a student."""
    directory = ensemble.root / "exp/loud"
    shutil.copytree(ensemble.root / "exp/teacher", directory)
    config = yaml.safe_load((directory / "config.yaml").read_text())
    (directory / "config.yaml").write_text(yaml.safe_dump({**config, "speech_volume_normalize": 0.9}))
    wavs = read_table(ensemble.root / "dump/raw/dev/wav.scp")
    (ensemble.root / "noise.scp").write_text("".join(f"{utt} {wav}\n" for utt, wav in wavs.items()))
    return ensemble


@pytest.mark.parametrize(
    "student",
    [
        {"noise_scp": "noise.scp", "noise_db_range": "0_5"},
        {"speech_volume_normalize": 0.3},
        {"preprocessor_conf": {"fs": RATE, "data_aug_prob": 1, "data_aug_effects": [[1, "clipping", {}]]}},
    ],
    ids=["noise", "volume", "effects"],
)
def test_a_teacher_gets_its_own_speech_in_both_ways(loud: Recipe, student: dict) -> None:
    """Not the student's, which is noisy, of another volume or distorted."""
    criteria, store = {"ctc": KL}, "exp/loud_targets"
    if not (loud.root / store).exists():
        write(loud, store, criteria, ["exp/loud"], "--number", "float32")
    values = []
    for kind in ("exp", "store"):
        teacher = {"exp": {"exp": "exp/loud"}, "store": {"store": store}}[kind]
        exp = loud.train(f"exp/of_{kind}", "student", teacher=teacher, criteria=criteria, **ALONE, **student)
        values.append(statistics(exp))
    for part in ("train", "valid"):
        ours, theirs = (v[part]["loss_kd_ctc"] for v in values)
        assert ours == pytest.approx(theirs, rel=1e-5), part


def test_the_speech_of_a_batch(loud: Recipe) -> None:
    """Student: with noise, at its volume; teacher: clean, at its own."""
    from espnet_kd.tasks.asr import ASRDistillationTask as Task

    options = {
        "teacher": {"exp": "exp/loud"}, "criteria": {"ctc": KL}, "noise_scp": "noise.scp",
        "speech_volume_normalize": 0.3,
    }  # fmt: skip
    speech = np.array([0.25, -0.5, 0.125] * 4000, np.float32)
    with contextlib.chdir(loud.root):
        args = Task.get_parser().parse_args(loud.training("exp/x", "student", **options))
        prepare = {train: Task.build_preprocess_fn(args, train) for train in (True, False)}
        for train, clean in ((True, False), (False, True)):
            found = prepare[train]("utt", {"speech": speech.copy(), "text": "A B"})
            np.testing.assert_allclose(found["teacher_speech"], speech * 1.8, rtol=1e-6)  # 0.9 / 0.5
            assert np.abs(found["speech"]).max() == pytest.approx(0.3)
            assert np.allclose(found["speech"], speech * 0.6, rtol=1e-6) is clean
        args.teacher = {"exp": "exp/teacher"}
        args.noise_scp = args.speech_volume_normalize = None
        found = Task.build_preprocess_fn(args, True)("utt", {"speech": speech, "text": "A B"})
        assert "teacher_speech" not in found, "one speech serves both"


def seen(recipe: Recipe, store: Store, teacher: dict) -> list[dict[str, Targets]]:
    """Of one utterance: stored targets, and what teachers give beside the training."""
    utt = "train-2"
    with contextlib.chdir(recipe.root):
        found = worker.load(worker.spec(teacher_options(teacher), store.manifest.taps, RATE, "cpu"))
        wav = read_table("dump/raw/train/wav.scp")[utt]
        waveform, tokens, online = found.observe(utt, wav, read_table("dump/raw/train/text")[utt])
    batch = (
        torch.from_numpy(waveform)[None],
        torch.tensor([len(waveform)]),
        torch.tensor([tokens]),
        torch.tensor([len(tokens)]),
    )
    return [StoredTeacher(store, list(store.manifest.taps)).targets(*batch, [utt]), online]


def test_vectors_and_classes_in_float16(ensemble: Recipe) -> None:
    store = write(ensemble, "exp/targets_half", {**CRITERIA, **HIDDEN}, ["exp/teacher"])
    kinds = {path: (tap.kind, tap.row.itemsize) for path, tap in store.manifest.taps.items()}
    # 3 classes of one byte and their float16; 32 features
    assert kinds == {"ctc.ctc_lo": ("topk", 9), "decoder": ("topk", 9), "encoder": ("values", 64)}
    stored, online = seen(ensemble, store, {"exp": "exp/teacher"})
    for path in kinds:
        assert torch.equal(stored[path].lengths, online[path].lengths)
    torch.testing.assert_close(stored["encoder"].values, online["encoder"].values, rtol=1e-3, atol=1e-6)
    for path in ("ctc.ctc_lo", "decoder"):
        log_probs, tokens = online[path].values.log_softmax(-1).topk(3)
        assert torch.equal(stored[path].values.tokens, tokens)
        torch.testing.assert_close(stored[path].values.log_probs, log_probs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("mean", ["posteriors", "log_posteriors"])
def test_the_mean_of_an_ensemble(ensemble: Recipe, mean: str) -> None:
    teacher = {"exp": ENSEMBLE, "mean": mean, "weights": [1, 3]}
    criteria = {"ctc": {**CRITERIA["ctc"], "temperature": 2.0, "k": 7, "tail": "other"}}
    place = f"exp/mean_{mean}"
    with contextlib.chdir(ensemble.root):
        Path("kd.yaml").write_text(
            yaml.safe_dump({"criteria": criteria, "teacher": {**teacher, "store": place}})
        )
        command.main(["--config", "kd.yaml", "--workers", "1", "--data", "dump/raw/train"])
    store = Store(ensemble.root / place)
    stored, _ = seen(ensemble, store, teacher)
    one, two = (seen(ensemble, store, {"exp": exp})[1]["ctc.ctc_lo"].values / 2.0 for exp in ENSEMBLE)
    if mean == "posteriors":
        expected = 0.25 * one.softmax(-1) + 0.75 * two.softmax(-1)
    else:
        expected = (0.25 * one.log_softmax(-1) + 0.75 * two.log_softmax(-1)).softmax(-1)
    kept = stored["ctc.ctc_lo"].values
    found = torch.zeros_like(expected).scatter(-1, kept.tokens, kept.log_probs.exp())
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-5)


def test_the_mean_is_at_the_temperature_of_the_criterion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may have another than 1 without an option."""

    class Warm(KLDivergence):
        def __init__(self, temperature: float = 2.0) -> None:
            super().__init__(temperature)

    monkeypatch.setitem(registry.CRITERIA, "warm", Warm)
    terms = term_options({"ctc": {"type": "warm", "tap": "ctc.ctc_lo"}})
    assert common_temperatures(terms, teachers=2) == {"ctc.ctc_lo": 2.0}


def test_a_store_with_more_than_is_needed_serves(ensemble: Recipe, capsys: pytest.CaptureFixture) -> None:
    fewer = {"ctc": {**CRITERIA["ctc"], "k": 1, "renorm": False}}
    first = write(ensemble, "exp/more", CRITERIA, ["exp/teacher"], "--k", "5")
    assert [tap.k for tap in first.manifest.taps.values()] == [5, 5]
    assert write(ensemble, "exp/more", fewer, ["exp/teacher"]).manifest == first.manifest
    assert "exp/more: already there, 11 utterances" in capsys.readouterr().out
    ensemble.train("exp/fewer", "student", teacher={"store": "exp/more"}, criteria=fewer)
    with contextlib.chdir(ensemble.root):
        command.main(["--verify", "--store", "exp/more"])
    assert "exp/more: 11 utterances, 0.01 hours, no problem" in capsys.readouterr().out
    with pytest.raises(UserError, match="exp/more holds shards of another data and taps and teachers"):
        write(ensemble, "exp/more", {"ctc": {**CRITERIA["ctc"], "k": 7}}, ["exp/second"])
    manifest = ensemble.root / "exp/more/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 1}))
    with pytest.raises(UserError, match="the format 1, .* remove exp/more and make the store again"):
        write(ensemble, "exp/more", fewer, ["exp/teacher"])


@pytest.mark.filterwarnings("ignore:Couldn't detect a suitable IP address")  # Dask asks on import
def test_two_workers_write_what_one_does_and_an_interrupted_command_goes_on(
    ensemble: Recipe, capsys: pytest.CaptureFixture
) -> None:
    options = ("--shards", "4")
    one = write(ensemble, "exp/one", CRITERIA, ENSEMBLE, *options).directory
    # In this process, which has ESPnet already; their own processes: test_pseudo_label_killed.py.
    (ensemble.root / "cluster.yaml").write_text("type: local\nworkers: 2\noptions: {processes: false}\n")
    cluster = ("--cluster", "cluster.yaml", "--workers", "2")
    two = write(ensemble, "exp/two", CRITERIA, ENSEMBLE, *options, *cluster).directory
    before, cost = contents(one), read_cost(one)
    assert contents(two) == before
    assert read_cost(two).cpu_seconds > 0 and 0 < cost.cpu_seconds < cost.seconds + 1
    # As a killed worker leaves it: a shard half-written, one not begun, no manifest.
    (one / "00002").rename(one / ".00002.abcdef")
    (one / ".00002.abcdef/decoder").write_bytes(b"half")
    shutil.rmtree(one / "00004")
    (one / "manifest.json").unlink()
    times = {path: path.stat().st_mtime_ns for path in one.glob("0*/*")}
    with pytest.raises(UserError, match="exp/one is no complete store"):
        Store(one)
    capsys.readouterr()
    write(ensemble, "exp/one", CRITERIA, ENSEMBLE, *options)
    assert "4 shards, 2 to make" in capsys.readouterr().out
    assert contents(one) == before and all(path.stat().st_mtime_ns == t for path, t in times.items())
    assert read_cost(one).cpu_seconds > cost.cpu_seconds, "the time of two shards is added"
    # The way out that the message about a damaged shard names.
    shutil.rmtree(one / "00003")
    (one / "cost.json").unlink()
    (two / "manifest.json").write_text("{")
    for store in ("exp/one", "exp/two"):
        write(ensemble, store, CRITERIA, ENSEMBLE, *options)
    assert contents(one) == contents(two) == before and read_cost(one) is None  # one shard's is not all


def contents(directory: Path) -> dict[Path, bytes]:
    """Files by their relative path, without the one that holds times."""
    files = (p for p in directory.rglob("*") if p.is_file() and p.name != "cost.json")
    return {p.relative_to(directory): p.read_bytes() for p in files}


def test_a_shard_of_other_data_or_a_part_of_one_is_refused(ensemble: Recipe) -> None:
    store = write(ensemble, "exp/parts", CRITERIA, ["exp/teacher"], "--shards", "2").directory
    shutil.copytree(store / "00001", store.parent / "kept")
    for made, message in (
        (lambda: shutil.copytree(store / "00002", store / "00001"), "planned"),
        (lambda: (store / "00001/decoder").write_bytes(b""), "00001/decoder has 0 bytes, not "),
        (lambda: (store / "00001/index.jsonl").unlink(), "00001/index.jsonl does not exist"),
    ):
        (store / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(store / "00001")
        if message == "planned":
            message = r"00001 has \S+ where dev-0 is planned: it was made from other data or is inco"
        else:
            shutil.copytree(store.parent / "kept", store / "00001")
        made()
        with pytest.raises(UserError, match=message):
            write(ensemble, "exp/parts", CRITERIA, ["exp/teacher"], "--shards", "2")


def test_other_audio_of_equal_length_is_noticed(ensemble: Recipe, capsys: pytest.CaptureFixture) -> None:
    teacher = {"store": "exp/audio"}
    write(ensemble, "exp/audio", CRITERIA, ["exp/teacher"])
    with contextlib.chdir(ensemble.root):
        audio = Path(read_table("dump/raw/train/wav.scp")["train-2"])
        before, (samples, rate) = audio.read_bytes(), soundfile.read(audio, dtype="int16")
        try:
            soundfile.write(audio, samples[::-1], rate, "PCM_16")
            with pytest.raises(UserError, match="exp/audio: 1 problems in 11 utterances"):
                command.main(["--verify", "--store", "exp/audio"])
            said = f"the targets of train-2 are of other audio than {audio.resolve()}"
            assert said in capsys.readouterr().out
            with pytest.raises(UserError, match=r"holds shards of another data \(audio "):
                write(ensemble, "exp/audio", CRITERIA, ["exp/teacher"])
            with pytest.raises(UserError, match="the audio of train-2 is not that of its targets in exp/"):
                ensemble.train("exp/audio_student", "student", teacher=teacher, criteria=CRITERIA)
        finally:
            audio.write_bytes(before)
        command.main(["--verify", "--store", "exp/audio", "--data", "dump/raw/train"])


def test_more_classes_than_there_are_cannot_be_written(ensemble: Recipe) -> None:
    with pytest.raises(UserError, match="criteria: att: k is 8, but the model has 7 classes"):
        write(ensemble, "exp/too_many", {"att": {**TOPK, "tap": "decoder", "k": 8}}, ["exp/teacher"])


MISFITS = {
    "another teacher": (
        {"teacher": {"store": "exp/fit", "exp": "exp/second"}},
        "are of another teacher, teacher: its checkpoint differs from exp/second's",
    ),
    "more teachers": ({"teacher": {"store": "exp/fit", "exp": ENSEMBLE}}, "are of 1 teachers, not of 2"),
    "no store": ({"teacher": {"store": "exp/nowhere"}}, "exp/nowhere is no complete store"),
    "more classes": (
        {"criteria": {"ctc": {**CRITERIA["ctc"], "k": 4}}},
        "3 classes are stored, but the criterion needs 4 at ctc.ctc_lo",
    ),
    "another temperature": (
        {"criteria": {"ctc": {**CRITERIA["ctc"], "temperature": 2.0}}},
        "criterion ctc: the temperature at ctc.ctc_lo is 2.0, but the targets were made at 1.0",
    ),
    "another type": (
        {"criteria": {"ctc": {"type": "kl", "tap": "ctc.ctc_lo"}}},
        "only the 3 most probable classes are stored at ctc.ctc_lo, for criteria of type topk",
    ),
    "another tap": (
        {"criteria": {"enc": {"type": "hidden", "tap": "encoder"}}},
        "the store has no targets of the tap encoder, only of ctc.ctc_lo",
    ),
    "another frame rate": (
        {"encoder_conf": {"input_layer": "conv2d6"}},
        "use the same subsampling",
    ),
    "time warp": (
        {"specaug_conf": {**MODELS["student"]["specaug_conf"], "apply_time_warp": True}},
        "SpecAugment moves them in time",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_store_that_does_not_fit_is_refused(ensemble: Recipe, name: str) -> None:
    changes, message = MISFITS[name]
    ctc = {"ctc": CRITERIA["ctc"]}
    if not (ensemble.root / "exp/fit").exists():
        write(ensemble, "exp/fit", ctc, ["exp/teacher"])
    options = {"teacher": {"store": "exp/fit"}, "criteria": ctc, "dry_run": True, **changes}
    if "encoder_conf" in changes:
        options["encoder_conf"] = {**MODELS["student"]["encoder_conf"], **changes["encoder_conf"]}
    with pytest.raises(UserError) as error:
        ensemble.train("exp/other", "student", **options)
    assert message in str(error.value)


def test_other_audio_other_text_and_another_frame_rate_name_the_utterance(ensemble: Recipe) -> None:
    store = write(ensemble, "exp/content", CRITERIA, ["exp/teacher"])
    record = store.read("train-1")
    tokens = torch.tensor([[3, 4]])
    teacher = StoredTeacher(store, ["ctc.ctc_lo"])

    wav = read_table(ensemble.root / "dump/raw/train/wav.scp")["train-1"]
    audio = torch.from_numpy(read_speech(str(ensemble.root / wav), "train-1")[0])[None]

    def targets(samples: int, text: torch.Tensor, audio: torch.Tensor = audio) -> dict[str, Targets]:
        return teacher.targets(
            audio[:, :samples], torch.tensor([samples]), text, torch.tensor([2]), ["train-1"]
        )

    with pytest.raises(UserError, match="the audio of train-1 is not that of its targets in .*exp/content: "):
        targets(record.samples, tokens, -audio)
    with pytest.raises(
        UserError, match=f"train-1 has 99 samples, but {record.samples} in .*: the targets are"
    ):
        targets(99, tokens)
    with pytest.raises(UserError, match="train-1 has another transcript in .*exp/content"):
        targets(record.samples, tokens)
    frames = len(record.rows["ctc.ctc_lo"])
    stored = Targets(torch.zeros(1, frames, 7), torch.tensor([frames]), ["train-1"])
    term = Term("ctc", Schedule(1.0, 1.0), "ctc.ctc_lo", "ctc.ctc_lo")
    for more in (-2, 2):
        ours = Targets(torch.zeros(1, frames + more, 7), torch.tensor([frames + more]))
        assert aligned(ours, stored, term)[2].sum() == frames + min(more, 0)
    ours = Targets(torch.zeros(1, frames, 7), torch.tensor([frames - 3]))  # padding hides nothing
    message = f"utterance train-1 has {frames - 3} positions at ctc.ctc_lo, the stored targets {frames} at"
    with pytest.raises(UserError, match=message):
        aligned(ours, stored, term)


def test_other_tokens_and_other_utterances(ensemble: Recipe) -> None:
    """In the store, as if it had been made of other data."""
    write(ensemble, "exp/other", CRITERIA, ["exp/teacher"])
    manifest = ensemble.root / "exp/other/manifest.json"

    def train() -> str:
        with pytest.raises(UserError) as error:
            ensemble.train("exp/other_student", "student", teacher={"store": "exp/other"}, criteria=CRITERIA)
        return str(error.value)

    change(manifest, tokens="0")
    assert "are of a teacher with another token list than the student's" in train()
    shutil.rmtree(ensemble.root / "exp/other")
    with contextlib.chdir(ensemble.root):
        wav = Path("dump/raw/dev/wav.scp")
        before = wav.read_text()
        wav.write_text(before.replace("dev-0", "dev-x", 1))
        text = Path("dump/raw/dev/text")
        text.write_text(text.read_text().replace("dev-0", "dev-x", 1))
        try:
            write(ensemble, "exp/other", CRITERIA, ["exp/teacher"])
        finally:
            wav.write_text(before)
            text.write_text(text.read_text().replace("dev-x", "dev-0", 1))
    assert "exp/other has no targets of utterance dev-0 of dump/raw/dev/wav.scp" in train()


def change(path: Path, **changes: object) -> None:
    """Change a manifest with a right checksum."""
    from espnet_kd.targets.format import checksum

    content = {**json.loads(path.read_text()), **changes}
    del content["checksum"]
    path.write_text(json.dumps({**content, "checksum": checksum(content)}))
