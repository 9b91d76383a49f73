"""Test what we rely on in ESPnet on its models and on a training: each failure names what has broken."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fork_server import quick_python
from recipe import RATE, TOKENS, Recipe, model, transducer
from test_hybrid_teacher import STANDINS
from torch import Tensor, nn

from espnet_kd.host import losses, models, options, outputs, search, training
from espnet_kd.rnnt import joint_of
from espnet_kd.teachers.checkpoint import load_checkpoint

SPEECH = torch.randn(2, RATE, generator=torch.Generator().manual_seed(0))
BATCH = {
    "speech": SPEECH,
    "speech_lengths": torch.tensor([RATE, RATE // 2]),
    "text": torch.tensor([[3, 4, 5], [5, 3, -1]]),
    "text_lengths": torch.tensor([3, 2]),
}
HYBRID = {
    "decoder": "transducer",
    "decoder_conf": {"hidden_size": 16},
    "joint_net_conf": {"joint_space_size": 16},
}
AUXILIARY = {"auxiliary_ctc_weight": 0.3, "auxiliary_lm_loss_weight": 0.2, "transducer_weight": 0.7}
INTER = {"interctc_layer_idx": [1], "interctc_use_conditioning": False}


def config(plain: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What ESPnet writes as config.yaml of a small model; mappings are merged."""
    merged = {k: {**plain[k], **v} if isinstance(v, dict) and k in plain else v for k, v in changes.items()}
    expected = plain | merged
    task = training.TASKS[outputs.task_of(expected)]
    return task.get_default_config() | expected | {"token_list": list(TOKENS), "specaug": None}


def built(plain: dict[str, Any], **changes: Any) -> nn.Module:
    """The model of a configuration, in eval mode."""
    torch.manual_seed(0)
    return training.build_model(config(plain, **changes)).eval()


@pytest.fixture(scope="module")
def asr() -> nn.Module:
    return built(model(16, 2), encoder_conf=INTER, model_conf={"interctc_weight": 0.4})


@pytest.fixture(scope="module")
def rnnt() -> nn.Module:
    return built(transducer(16, 1), model_conf=AUXILIARY)


@pytest.fixture()
def hybrid(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.syspath_prepend(str(STANDINS))
    monkeypatch.delitem(sys.modules, "warprnnt_pytorch", raising=False)
    return built(model(16, 1) | HYBRID)


def encoded(of: nn.Module) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return models.encode(of, BATCH["speech"], BATCH["speech_lengths"])


class Sum(nn.Module):
    """In the place of an RNN-T loss, for which ESPnet needs another package."""

    def forward(self, joint: Tensor, *others: Tensor) -> Tensor:
        return joint.sum()


def fresh_batch() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in BATCH.items()}  # forward changes its inputs


def test_the_parts_of_a_loss_add_up_to_it(asr: nn.Module, rnnt: nn.Module, hybrid: nn.Module) -> None:
    rnnt.criterion_transducer = Sum()
    cases = {asr: {"ctc", "decoder"}, hybrid: {"ctc", "joint_network"}}
    cases[rnnt] = {"ctc_lin", "lm", "joint_network"}
    for which, parts in cases.items():
        stock, name = type(which), type(which).__name__
        which.__class__ = type("WithParts", (losses.LossParts, stock), {})
        which.kd_losses = {}
        loss = which(**fresh_batch())[0]
        found = which.parts()
        which.__class__ = stock
        assert found.keys() == parts, f"{name}.forward computes {set(found)} by _calc_*_loss, not {parts}"
        torch.testing.assert_close(
            sum(found.values()), loss[0],
            msg=f"ESPnet's {name} adds up the parts of its loss otherwise: host/losses.py: LossParts.parts",
        )  # fmt: skip


def test_training_asks_the_joint_network_for_a_lattice_once(rnnt: nn.Module, hybrid: nn.Module) -> None:
    for which in (rnnt, hybrid):
        calls: list[bool] = []
        handle = which.joint_network.register_forward_pre_hook(
            lambda module, inputs, to=calls: to.append(models.lattice_inputs(*inputs, False) is not None)
        )
        which.criterion_transducer = Sum()
        which.train()(**fresh_batch())
        which.eval()
        handle.remove()
        assert calls[:1] == [True], (
            f"ESPnet's {type(which).__name__} does not call its joint network with (B, T, 1, D) and "
            "(B, 1, U, D) any more: host/models.py: lattice_inputs"
        )


def test_a_joint_network_is_made_of_the_pieces_that_we_take(rnnt: nn.Module) -> None:
    frames, lengths = encoded(rnnt)
    labels = models.predicted(rnnt, frames, BATCH["text"])
    assert labels.shape[1] == 4, "ESPnet's get_transducer_task_io puts no blank before the labels any more"
    with torch.no_grad():
        whole = rnnt.joint_network(frames.unsqueeze(2), labels.unsqueeze(1))
        joint = joint_of(rnnt.joint_network, frames, labels)
        pieces = torch.tanh(joint.enc[:, :, None] + joint.dec[:, None]) @ joint.weight.T + joint.bias
    torch.testing.assert_close(
        pieces, whole, msg="ESPnet's JointNetwork computes something else: rnnt/joint.py: joint_of"
    )


def test_an_encoder_counts_no_padding(asr: nn.Module, rnnt: nn.Module) -> None:
    for which in (asr, rnnt):
        padded = int(encoded(which)[1][1])
        with torch.no_grad():
            alone = int(models.encode(which, SPEECH[1:, : RATE // 2], torch.tensor([RATE // 2]))[1])
        assert padded == alone, (
            f"the encoder of ESPnet's {type(which).__name__} gives an utterance {padded} frames with "
            f"padding, {alone} without: host/installed.py: OLDEST must leave out this version"
        )


def test_ctc_logits_are_those_of_the_layer_that_we_call(asr: nn.Module) -> None:
    frames, _ = encoded(asr)
    ours = models.ctc_layer(asr)(frames).log_softmax(-1)
    assert torch.equal(ours, asr.ctc.log_softmax(frames)), "ESPnet's CTC has another last layer than ctc_lo"


def test_a_transducer_has_its_ctc_layer_where_we_look(rnnt: nn.Module) -> None:
    layer = models.ctc_layer(rnnt)
    assert layer is not None, "ESPnet's transducer has no ctc_lin any more: host/models.py: ctc_layer"
    assert layer(encoded(rnnt)[0]).shape[-1] == len(TOKENS)


def test_the_decoder_reads_the_prefix_that_training_gives(asr: nn.Module) -> None:
    calls: list[tuple[Tensor, ...]] = []
    handle = asr.decoder.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))
    asr(**fresh_batch())
    handle.remove()
    assert len(calls) == 1 and len(calls[0]) == 4, (
        "ESPnet's training calls the decoder otherwise than once with encoded, frames, prefix and lengths: "
        "methods/sampling.py, teachers/taps.py"
    )
    ours = models.decoder_prefix(asr, BATCH["text"])
    assert torch.equal(ours, calls[0][2]), "ESPnet's decoder reads another prefix: decoder_prefix"


def test_ctc_is_called_with_frames_and_labels(asr: nn.Module) -> None:
    calls: list[int] = []
    handle = asr.ctc.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs)))
    asr(**fresh_batch())
    handle.remove()
    assert calls == [4, 4], "ESPnet calls its CTC otherwise: teachers/short.py warns no more"


def test_options_that_leave_out_layers_are_known() -> None:
    dropped = model(16, 2)["encoder_conf"] | {"layer_drop_rate": 0.5}
    branches = model(16, 2, "conformer")["encoder_conf"] | {"stochastic_depth_rate": 0.5}
    blocks = transducer(16, 2)["encoder_conf"]["main_conf"] | {"blockdrop_rate": 0.5}
    cases = {
        "layer_drop_rate": (built(model(16, 2), encoder_conf=dropped).encoder.encoders, ["1"]),
        "stochastic_depth_rate": (
            built(model(16, 2, "conformer"), encoder_conf=branches).encoder.encoders[1], ["norm_final"]
        ),
        "blockdrop_rate": (
            built(transducer(16, 2), encoder_conf={"main_conf": blocks}).encoder.encoders, ["blocks", "1"]
        ),
    }  # fmt: skip
    for option, (outer, inner) in cases.items():
        assert models.skipped_by(outer, inner) == (option, 0.5), (
            f"ESPnet's modules do not keep {option} where we look: host/models.py: skipped_by"
        )


def test_chance_is_switched_off_where_it_is() -> None:
    sampling = {"decoder": "rnn", "decoder_conf": {"sampling_probability": 0.5, "hidden_size": 16}}
    attention = built({**model(16, 1), **sampling})
    assert models.sampling_probability(attention) == 0.5, "ESPnet's RNNDecoder has no sampling_probability"
    models.make_deterministic(attention)
    assert models.sampling_probability(attention) == 0
    main = {"dynamic_chunk_training": True, "short_chunk_size": 5, "num_left_chunks": 2}
    main |= {"short_chunk_threshold": 0.75, "pos_wise_act_type": "swish"}
    streaming = built(transducer(16, 1), encoder_conf={"main_conf": main})
    assert models.own_chunks(streaming) == (5, 2), "ESPnet's streaming encoder keeps its chunks elsewhere"
    models.make_deterministic(streaming)
    one, other = encoded(streaming)[0], encoded(streaming)[0]
    assert torch.equal(one, other), "ESPnet's streaming encoder draws chunks that we do not switch off"


def test_chunks_hide_what_is_after_them() -> None:
    rnnt = built(transducer(16, 1), normalize=None)
    later = SPEECH.clone()
    later[:, RATE * 3 // 4 :] = 0
    with torch.no_grad(), models.in_chunks(rnnt, (2, 1)):
        one, other = (models.encode(rnnt, s, torch.tensor([RATE, RATE]))[0] for s in (SPEECH, later))
    apart = (one - other).abs().amax(-1)[0].nonzero().flatten()
    assert len(apart) and apart[0] > 10, "ESPnet's encoder takes no `chunk_mask` any more: host/models.py"


def test_what_is_too_short_is_said_so(asr: nn.Module, rnnt: nn.Module) -> None:
    for which in (asr, rnnt):
        with pytest.raises(models.TOO_SHORT_ERRORS) as error, torch.no_grad():
            models.encode(which, SPEECH[:1, :600], torch.tensor([600]))
        reason = models.too_short_reason(error.value)
        assert reason.startswith("has ") and "return" not in reason


def test_names_of_classes_are_known() -> None:
    for task, encoder in (("asr", "conformer"), ("asr_transducer", None)):
        named = training.named_classes(training.TASKS[task])
        assert "adam" in named["optim"] and "warmuplr" in named["scheduler"] and "rnn" in named["decoder"]
        assert encoder is None or encoder in named["encoder"], "ESPnet's tasks tell their encoders elsewhere"


def test_batches_of_a_factory_are_a_list_that_counts() -> None:
    from espnet2.iterators.sequence_iter_factory import SequenceIterFactory

    factory = SequenceIterFactory(
        dataset=[0, 1, 2], batches=[(0,), (1, 2)], seed=0, shuffle=False, collate_fn=lambda items: items
    )
    batches = training.batches_of(factory)
    assert batches == [(0,), (1, 2)], "ESPnet's SequenceIterFactory keeps its batches elsewhere: batches_of"
    batches[:] = [(2, 1), (0,)]
    assert list(factory.build_iter(1)) == [[2, 1], [0]], "ESPnet takes its batches from a copy: batches_of"


def test_a_training_writes_and_logs_what_we_read(recipe: Recipe, tmp_path: Path) -> None:
    changes = {"max_epoch": 2, "nbest_averaging_interval": 2, "log_interval": 1}
    words = recipe.training(tmp_path / "exp", "student", **changes)
    log = quick_python("-m", "espnet2.bin.asr_train", *words, cwd=recipe.root, check=True).stderr
    exp = tmp_path / "exp"
    average = outputs.average_file("valid", "acc")
    names = [outputs.CHECKPOINT, outputs.LATEST, outputs.best_file("valid", "acc"), average]
    names += [average.replace("ave", "ave_2best"), f"valid.acc.ave_2best.{outputs.interval_suffix(2)}.pth"]
    lost = [name for name in [*names, "config.yaml"] if not (exp / name).exists()]
    assert not lost, f"an ESPnet training writes no {', '.join(lost)} any more: host/outputs.py"
    assert {path.name for path in outputs.epoch_files(exp)} == {outputs.epoch_file(n) for n in (1, 2)}
    state = load_checkpoint(exp / outputs.CHECKPOINT)
    lost = [key for key in ("model", "optimizers", "reporter") if key not in state]
    assert not lost, f"ESPnet's checkpoint.pth has no {', '.join(lost)} any more: tasks/trainer.py"
    stats = outputs.reported(state)
    assert stats[2]["train"]["time"] > 0, "ESPnet's checkpoint.pth keeps durations otherwise: host/outputs.py"
    reporter = training.reported_by(state)
    assert reporter.get_epoch() == 2 and reporter.stats.keys() == stats.keys() == {1, 2}
    assert outputs.LOG_BATCHES.search(log)[1] == "2", "ESPnet's log tells the batches of an epoch otherwise"
    assert outputs.LOG_EPOCH.search(log).groups() == ("1", "2"), "ESPnet's log tells epochs otherwise"
    assert [m.groups() for m in outputs.LOG_BATCH.finditer(log)][-1] == ("2", "2"), (
        "ESPnet's log tells batches otherwise: commands/progress.py"
    )
    result = outputs.LOG_RESULTS.search(log)
    phases = dict(outputs.LOG_PHASE.findall(result[2])) if result else {}
    assert {"train", "valid"} <= phases.keys(), "ESPnet's log tells results otherwise: report/history.py"
    assert f"acc={stats[1]['valid']['acc']:.3f}"[:7] in phases["valid"]
    assert outputs.LOG_DURATION.search(phases["train"]), "ESPnet's log tells durations otherwise"


def test_what_has_no_value_is_nan_in_every_step() -> None:
    reporter = training.Reporter()
    reporter.set_epoch(1)
    with reporter.observe("valid") as phase:
        for acc in (None, 0.5):  # a model may report None
            phase.register({"acc": acc, "cer": None, "loss": torch.tensor([1.0])}, torch.tensor([2]))
            phase.next()
        assert training.stats_with_values(phase) == {"acc", "loss"}


def test_stock_decoding_is_run_and_shared_out(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.root)
    args = options.decoding_options("asr", ["--beam_size", "2", "--nbest", "2"], pytest.fail)
    given = options.search_arguments("asr", args)
    assert {"beam_size", "ctc_weight", "nbest", "batch_size", "minlenratio"} <= given.keys(), (
        "ESPnet's asr_inference and its Speech2Text do not name options alike any more: host/options.py"
    )
    one = search.Search("asr", "exp/teacher/config.yaml", "exp/teacher/valid.acc.ave.pth", "cpu", given)
    speech = SPEECH[0].numpy()
    plain = one("utt", speech, 0)
    assert len(plain) == 2 and plain[0][3].score >= plain[1][3].score
    assert one("utt", speech[:400], 0) == [], "ESPnet's Speech2Text raises no TooShortUttError"

    class Scorer(search.BatchScorerInterface):
        def batch_score(self, ys: Tensor, states: list[Any], xs: Tensor) -> tuple[Tensor, list[Any]]:
            calls.append(ys.shape[0])
            return torch.zeros(len(ys), len(TOKENS)), [None] * len(ys)

    calls: list[int] = []
    one.share(one.model, one.model.ctc, Scorer())
    one("utt", speech, 0)
    assert calls, "ESPnet's beam search does not ask the scorer that we put into it: host/search.py: share"


def test_a_transducer_is_decoded(tmp_path: Path, rnnt: nn.Module) -> None:
    settings = config(transducer(16, 1), model_conf=AUXILIARY, token_type="char")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    torch.save(rnnt.state_dict(), tmp_path / "model.pth")
    args = options.decoding_options("asr_transducer", ["--beam_size", "2"], pytest.fail)
    given = options.search_arguments("asr_transducer", args)
    files = (str(tmp_path / "config.yaml"), str(tmp_path / "model.pth"))
    found = search.Search("asr_transducer", *files, "cpu", given)("utt", SPEECH[0].numpy(), 0)
    assert len(found) == 1 and np.isfinite(found[0][3].score)


def test_a_wrong_option_of_decoding_is_told_to_us() -> None:
    def refuse(message: str) -> None:
        raise LookupError(message)

    with pytest.raises(LookupError, match="beam_size"):
        options.decoding_options("asr", ["--beam_size", "many"], refuse)


def test_mappings_and_tokens_are_read_as_by_espnet(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--conf", action=options.NestedDictAction, default={})
    parser.add_argument("--flag", type=options.str2bool)
    args = parser.parse_args(["--conf", "a=1", "--conf", "b.c=x", "--flag", "false"])
    assert args.conf == {"a": 1, "b": {"c": "x"}} and args.flag is False
    (tmp_path / "text").write_text("AB A\n")
    options.write_token_counts(tmp_path / "text", tmp_path / "tokens", "char", None, {})
    assert (tmp_path / "tokens").read_text().split() == ["A", "B", "<space>"]
    assert options.token_counter("char", None, None)("AB A") == 4
