"""Codes of a teacher's hidden vectors: written to a store, and predicted by a student."""

import contextlib
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from recipe import RATE, Recipe, own_tensors

from espnet_kd.errors import UserError
from espnet_kd.files import read_table
from espnet_kd.targets import command, quantiser, worker
from espnet_kd.targets.format import quantiser_file
from espnet_kd.targets.quantiser import read_quantiser
from espnet_kd.targets.store import Store, verify
from espnet_kd.teachers.options import teacher_options

pytestmark = pytest.mark.slow(seconds=10)

MVQ = {"enc": {"type": "mvq", "tap": "encoder", "weight": 0.5}}
HIDDEN = {"enc": {"type": "hidden", "tap": "encoder"}}


def write(recipe: Recipe, store: str, criteria: dict = MVQ, *options: str) -> Store:
    with contextlib.chdir(recipe.root):
        Path(f"{store}.yaml").write_text(yaml.safe_dump({"criteria": criteria}))
        words = ["--config", f"{store}.yaml", "--store", store, "--workers", "1", "--teacher", "exp/teacher"]
        command.main([*words, "--data", "dump/raw/train", "dump/raw/dev", "--codebooks", "2", *options])
    return Store(recipe.root / store)


@pytest.fixture(scope="module", autouse=True)
def few_centroids() -> None:
    """The speech of the miniature has fewer frames than a byte has values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantiser, "CENTROIDS", 16)
        yield


@pytest.fixture(scope="module")
def store(recipe: Recipe) -> Store:
    return write(recipe, "exp/codes")


def test_an_estimate_writes_nothing_and_is_that_of_trained_codebooks(
    recipe: Recipe, capsys: pytest.CaptureFixture
) -> None:
    criteria = MVQ | {"ctc": {"type": "kl", "tap": "ctc.ctc_lo", "weight": 0.5}}
    with contextlib.chdir(recipe.root):
        Path("estimate.yaml").write_text(yaml.safe_dump({"criteria": criteria}))
        before = sorted(Path().rglob("*"))
        words = ["--config", "estimate.yaml", "--workers", "1", "--teacher", "exp/teacher"]
        command.main([*words, "--data", "dump/raw/train", "dump/raw/dev", "--codebooks", "2", "--estimate"])
        assert sorted(Path().rglob("*")) == before
    printed = capsys.readouterr().out
    found = re.match(r"(\d+) utterances: ([\d.]+ MB), .* with 1 workers, [\d.]+ .B of memory each\n", printed)
    assert found is not None
    assert write(recipe, "exp/estimated", criteria).manifest.utterances == int(found[1])
    assert f"expected for all: {found[2]}" in capsys.readouterr().out


def test_the_store_has_the_codes_of_the_teachers_vectors(recipe: Recipe, store: Store) -> None:
    tap = store.manifest.taps["encoder"]
    assert (tap.kind, tap.size, tap.row.itemsize) == ("codes", 2, 2)
    checksum = store.manifest.quantisers["encoder"]
    trained = read_quantiser(store.directory / quantiser_file("encoder"), checksum)
    teacher = teacher_options({"exp": str(recipe.root / "exp/teacher")})
    observer = worker.load(worker.spec(teacher, store.manifest.taps, RATE, "cpu"))
    utt, wav = next(iter(read_table(recipe.root / "dump/raw/dev/wav.scp").items()))
    with contextlib.chdir(recipe.root):
        vectors = observer.observe(utt, str(Path(wav).absolute()), "a")[2]["encoder"].values[0]
    codes = store.read(utt, ["encoder"]).rows["encoder"]["codes"]
    assert codes.tolist() == trained.encode(vectors).tolist()
    assert not list(verify(store))


def test_the_same_command_gives_the_same_codes_and_goes_on(
    recipe: Recipe, store: Store, capsys: pytest.CaptureFixture
) -> None:
    again = write(recipe, "exp/codes_again", MVQ, "--shards", "2")
    printed = capsys.readouterr().out
    assert "quantiser.encoder.npz: 2 codebooks from " in printed and " % of the variance is lost" in printed
    assert again.manifest.quantisers == store.manifest.quantisers
    before = {p: p.read_bytes() for p in again.directory.rglob("encoder")}
    shutil.rmtree(again.directory / again.manifest.shards[1].name)
    (again.directory / "manifest.json").unlink()
    write(recipe, "exp/codes_again", MVQ, "--shards", "2")
    assert "1 to make" in (printed := capsys.readouterr().out) and "codebooks from" not in printed
    assert {p: p.read_bytes() for p in again.directory.rglob("encoder")} == before
    write(recipe, "exp/codes_again")
    assert "already there" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds shards of another .*taps .*size 2, now 4"):
        write(recipe, "exp/codes_again", MVQ, "--shards", "2", "--codebooks", "4")
    (again.directory / quantiser_file("encoder")).write_bytes(b"")
    assert any("quantiser.encoder.npz is missing or damaged" in problem for problem in verify(again))


def test_shards_are_not_mixed_with_those_of_another_quantiser(recipe: Recipe) -> None:
    store = write(recipe, "exp/codes_lost", MVQ, "--shards", "2")
    shutil.rmtree(store.directory / store.manifest.shards[1].name)
    (store.directory / quantiser_file("encoder")).unlink()
    with pytest.raises(UserError, match="quantiser.encoder.npz is missing, with which the codes in .*00001"):
        write(recipe, "exp/codes_lost", MVQ, "--shards", "2")


def test_vectors_that_are_not_finite_are_refused(
    recipe: Recipe, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a byte, any code is finite."""
    seen = worker.Observer._seen

    def broken(self: worker.Observer, batch: list) -> dict:
        found = seen(self, batch)
        found["encoder"].tensor[0, 0, 0] = float("nan")
        return found

    monkeypatch.setattr(worker.Observer, "_seen", broken)
    with pytest.raises(UserError, match="a value at encoder is not finite: look whether the teacher's"):
        write(recipe, "exp/codes_broken")
    shutil.copytree(store.directory, recipe.root / "exp/codes_finite")
    shutil.rmtree(recipe.root / "exp/codes_finite" / store.manifest.shards[0].name)
    with pytest.raises(UserError, match="a value at encoder is not finite: look whether the teacher's"):
        write(recipe, "exp/codes_finite")


def test_a_student_predicts_them_and_stays_stock(recipe: Recipe, store: Store) -> None:
    exp = recipe.train("exp/coded", "student", teacher={"store": "exp/codes"}, criteria=MVQ)
    log = torch.load(exp / "checkpoint.pth", weights_only=True)["reporter"]["stats"][1]["train"]
    assert 0 < log["loss_kd_enc"] < 1e6
    kept = torch.load(exp / "1epoch.pth", weights_only=True)
    assert not [name for name in kept if name.startswith("kd_")]
    own = own_tensors(exp)
    assert own["kd_criteria.enc.predictor.weight"].shape == (2 * 256, 16)


@pytest.mark.parametrize(
    ("criteria", "teacher", "message"),
    [
        (HIDDEN, {"store": "exp/codes"}, "criterion enc: only codes are stored at encoder: codes are for"),
        (MVQ, {"exp": "exp/teacher"}, "criterion enc: codes come from a store: make it with `espnet-kd targ"),
    ],
)
def test_what_does_not_fit_is_refused(
    recipe: Recipe, store: Store, criteria: dict, teacher: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        recipe.train("exp/refused", "student", teacher=teacher, criteria=criteria)


def test_one_layer_has_codes_or_vectors(recipe: Recipe) -> None:
    both = {**MVQ, "vectors": HIDDEN["enc"]}
    with pytest.raises(UserError, match="criterion enc needs codes of encoder, and vectors the vectors them"):
        write(recipe, "exp/both", both)
    with pytest.raises(UserError, match="--codebooks is 0: give a number from 1 to 64"):
        write(recipe, "exp/none", MVQ, "--codebooks", "0")
