"""Transducers that write labels of their own: what is read, compared and left out of the loss."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import rnnt_reference
import torch
from espnet2.asr.transducer.beam_search_transducer import BeamSearchTransducer
from espnet2.asr_transducer.decoder.mega_decoder import MEGADecoder
from espnet2.asr_transducer.decoder.rnn_decoder import RNNDecoder
from espnet2.asr_transducer.decoder.stateless_decoder import StatelessDecoder
from torch import Tensor, nn

from bench import transducer
from bench.device_step import MOVING, SIZE, TOKENS, transducer_student, uneven
from espnet_kd.criteria import build_criterion
from espnet_kd.errors import UserError
from espnet_kd.methods.own_labels import write_labels
from espnet_kd.methods.sampling import OwnPrefix
from espnet_kd.methods.sampling_model import sample_prefixes
from espnet_kd.schedule import Schedule
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import LATTICE, lattice

pytestmark = pytest.mark.slow(seconds=5)

V, WIDTH = len(TOKENS), SIZE.width
NETWORKS = {
    "lstm": lambda: RNNDecoder(V, WIDTH, WIDTH, "lstm", 2),
    "gru": lambda: RNNDecoder(V, WIDTH, WIDTH, "gru"),
    "stateless": lambda: StatelessDecoder(V, WIDTH),
}


def batch() -> dict[str, Tensor]:
    """Three utterances, the first of 8 labels, the others of 6 and shorter."""
    torch.manual_seed(1)
    case = replace(transducer.CASES["an4"], utterances=3, seconds=1.0, classes=V)
    return uneven(transducer.batch(case))


def student(share: float | None = 1.0, kind: str = "full", network: str = "lstm", **options: Any) -> Any:
    """A student without dropout that writes labels and blanks, with a teacher of other weights."""
    torch.manual_seed(0)
    model = transducer_student(kind)
    model.specaug, model.decoder = None, NETWORKS[network]()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        joint = model.joint_network
        for layer, size in ((joint.lin_enc, 3.0), (joint.lin_dec, 3.0), (joint.lin_out, 1.0)):
            layer.weight.normal_(std=size)
        joint.lin_out.bias[0] = 7.0
    if share is not None:
        write_labels(model, OwnPrefix(Schedule(share, share), options.get("top_p")))
    return model


def with_label_loss(model: Any) -> Any:
    """Give a student the loss of its prediction network, without smoothing, and take away that of CTC."""
    model.use_auxiliary_lm_loss, model.lm_lin, model.auxiliary_lm_loss_weight = True, nn.Linear(WIDTH, V), 0.5
    model.lm_loss_smooth_neg, model.lm_loss_smooth_pos, model.auxiliary_ctc_weight = 0.0, 1.0, 0.0
    return model


def watch(model: Any) -> tuple[list[Tensor], list[Tensor], list[Any]]:
    """Keep what goes into the prediction networks of student and teacher, and every lattice."""
    inputs, taught, lattices = [], [], []
    teacher = model.kd_objective.teacher.experiments[0].model
    model.decoder.register_forward_hook(lambda module, given, output: inputs.append(given[0]))
    teacher.decoder.register_forward_hook(lambda module, given, output: taught.append(given[0]))
    model.lattice_seen = lambda joint, transcript: lattices.append((joint, transcript))
    return inputs, taught, lattices


@pytest.mark.parametrize("network", NETWORKS)
def test_hypotheses_are_those_of_greedy_decoding(network: str) -> None:
    """The greedy search of ESPnet's hybrids, at most one label a frame, with the networks of this model."""
    model, data = student(network=network), batch()
    decoder = model.decoder

    def score(hypothesis: Any, cache: Any) -> tuple[Tensor, Any, None]:
        return *decoder.score(hypothesis.yseq, hypothesis.dec_state), None

    with torch.no_grad():
        model.train()(**data)
    made, (encoded, frames) = model.kd_own, model.encode(data["speech"], data["speech_lengths"])
    names = {"dunits": WIDTH, "odim": V, "blank_id": 0, "set_device": lambda device: None}
    part = SimpleNamespace(**names, init_state=decoder.init_state, score=score)
    search, expected = BeamSearchTransducer(part, model.joint_network, beam_size=1), []
    with torch.no_grad():
        for i, n in enumerate(data["text_lengths"].tolist()):
            decoder.score_cache = {}
            found = search(encoded[i, : frames[i]])[0].yseq[1:]
            assert len(set(found)) > 1 and len(found) < frames[i], "several labels, and blanks"
            expected.append(found[:n])
    assert [row[row != -1].tolist() for row in made.labels] == expected
    assert made.lengths.tolist() == [len(row) for row in expected] and made.own.all()


@pytest.mark.parametrize("kind", ["full", "sequence"])
def test_losses_are_those_of_the_replaced_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of three utterances is along its hypothesis: no loss but the criterion, of a third each."""
    monkeypatch.setattr(torch, "rand", lambda *size: torch.tensor([0.1, 0.9, 0.9]))
    model, data = with_label_loss(student(0.5, kind)), batch()
    inputs, taught, lattices = watch(model)
    loss, stats, _ = model(**data)
    (joint, transcript), (labels, lengths, own) = lattices[0], model.kd_own
    texts = [y[y != -1].tolist() for y in data["text"]]
    assert own.tolist() == [True, False, False] and [len(y) for y in texts] == [8, 6, 6]
    read_by_others = [y[y != -1].tolist() for y in labels[1:]]
    assert read_by_others == texts[1:] and labels[0].tolist() != texts[0]
    read = nn.functional.pad(labels.masked_fill(labels == -1, 0), (1, 0))
    assert inputs[0][:, : read.shape[1]].equal(read) and taught[0].equal(read)
    batch_of = labels, transcript.enc_lens, lengths
    teacher = model.kd_objective.teacher.experiments[0].model
    with torch.no_grad():
        theirs = lattice(teacher, teacher.encode(data["speech"], data["speech_lengths"])[0], labels)
    nats, sequence = rnnt_reference.rnnt_loss(joint, *batch_of, reduction="none"), kind == "sequence"
    if sequence:
        kd = (nats - rnnt_reference.rnnt_loss(theirs, *batch_of, reduction="none")).abs().mean()
    else:
        options = {"rnnt_weight": None, "kd_weight": 1.0, "delay": 1, "normalize": "all_nodes"}
        kd = rnnt_reference.rnnt_distillation(joint, theirs, *batch_of, kind=kind, **options).loss
    log_p = model.lm_lin(model.decoder.forward(inputs[0])).log_softmax(-1)
    of_labels = -sum(log_p[i, range(6), texts[i]].sum() for i in (1, 2)) / 3
    task = nats[1:].sum() / 3 + 0.5 * of_labels
    torch.testing.assert_close(stats["loss_transducer"][0], nats[1:].sum() / 3, rtol=1e-4, atol=0)
    torch.testing.assert_close(stats["loss_aux_lm"][0], of_labels, rtol=1e-4, atol=0)
    torch.testing.assert_close(stats["loss_kd_lattice"][0], kd, rtol=1e-4, atol=0)
    total = 0.5 * task + MOVING(0) * kd
    torch.testing.assert_close(loss[0], total, rtol=1e-4, atol=0)
    parts = model.joint_network.lin_out.weight, model.decoder.embed.weight, model.encoder.embed.output.weight
    gradients = [torch.autograd.grad(x, parts, retain_graph=True) for x in (loss[0], total)]
    for found, expected in zip(*gradients, strict=True):
        assert (found - expected).norm() < 1e-4 * expected.norm()


def test_ctc_reads_the_transcripts() -> None:
    losses = [student(share)(**batch())[1] for share in (None, 1.0)]
    assert torch.equal(*(stats["loss_aux_ctc"] for stats in losses))
    assert losses[0]["loss_transducer"] > 0 and losses[1]["loss_transducer"] == 0


def test_hypotheses_are_empty_and_others_are_pseudo_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *size: torch.tensor([0.1, 0.9, 0.1]))
    model, data = student(0.5), batch()
    with torch.no_grad():
        model.joint_network.lin_out.bias[0] = 1000.0  # blanks alone
    model.kd_objective = replace(model.kd_objective, soft_only=True)
    ids = ["a", "pseudo-b", "c"]
    _, _, lattices = watch(model)
    loss, stats, _ = model(**data, utt_id=ids)
    assert model.kd_own.lengths.tolist() == [0, 6, 0] and lattices[0][0].shape[2] == 7
    assert model._along_transcripts().tolist() == [] and stats["loss_transducer"] == 0
    assert loss.isfinite() and stats["loss_kd_lattice"] > 0
    monkeypatch.setattr(torch, "rand", lambda *size: torch.zeros(3))
    loss, stats, _ = model(**data)
    loss.sum().backward()
    assert lattices[1][0].shape[2] == 1 and stats["loss_kd_lattice"] > 0  # one row: blank after blank
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("sample", ["greedy", "nucleus"])
def test_gradient_under_autocast(sample: str) -> None:
    model = student(top_p=None if sample == "greedy" else 0.9)
    with torch.autocast("cpu", torch.bfloat16):
        loss, stats, _ = model(**batch())
    loss.sum().backward()
    assert model.kd_own.lengths.min() > 0 and stats["loss_kd_lattice"].dtype == torch.float32
    for part in (model.joint_network.lin_out.weight, model.decoder.embed.weight):
        assert part.grad.isfinite().all() and part.grad.abs().sum() > 0


def test_drawn_labels_depend_on_the_random_numbers() -> None:
    model, found = student(top_p=1.0), []
    for seed in (0, 0, 1):
        data = batch()
        torch.manual_seed(seed)
        model(**data)
        found.append(model.kd_own.labels.tolist())
    assert found[0] == found[1] != found[2]


def test_probability_0_and_validation_are_the_step_without() -> None:
    for training, shares in ((True, (None, 0.0)), (False, (None, 1.0))):
        losses, drawn = [], []
        for share in shares:
            model, data = student(share), batch()
            model.train(training)
            torch.manual_seed(0)
            losses.append(model(**data)[0])
            drawn.append(torch.rand(1))
        assert torch.equal(*losses) and torch.equal(*drawn) and losses[0] > 0


def test_only_the_first_pass_of_a_step_is_replaced() -> None:
    model, data = student(), batch()
    model(**data)
    lists = torch.full((3, 5), 4)  # as n-best lists are read after it
    assert torch.equal(model.decoder(lists), model.decoder.forward(lists))


def test_several_teachers_along_one_path() -> None:
    model = student(None, "one_best")
    teacher = model.kd_objective.teacher
    both = type(teacher)(teacher.experiments * 2, [LATTICE])
    criterion = build_criterion("transducer", kind="one_best", reduction="mean")
    model.kd_criteria["lattice"] = criterion
    values = []
    for source in (teacher, both):
        model.kd_objective = replace(model.kd_objective, teacher=source)
        write_labels(model, OwnPrefix(Schedule(1.0, 1.0), None))
        values.append(model(**batch())[1]["loss_kd_lattice"])
    torch.testing.assert_close(*values, rtol=1e-4, atol=0)


def other_network(model: Any) -> None:
    model.decoder = MEGADecoder(V)


def no_criterion(model: Any) -> None:
    model.kd_objective = replace(model.kd_objective, terms=())


def without_weight(model: Any) -> None:
    (term,) = model.kd_objective.terms
    model.kd_objective = replace(model.kd_objective, terms=(replace(term, weight=Schedule(0.0, 0.0)),))


def stored(model: Any) -> None:
    model.kd_objective = replace(model.kd_objective, teacher=object())


def other_tokens(model: Any) -> None:
    model.kd_objective.teacher.maps = [object()]


def transcripts_scored(model: Any) -> None:
    term = Term("labels", MOVING, "ctc_lin", LATTICE)
    model.kd_criteria["labels"] = build_criterion("sequence")
    model.kd_objective = replace(model.kd_objective, terms=(*model.kd_objective.terms, term))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_network, "the student has MEGADecoder as prediction network: it works with `decoder: rnn`"),
        (no_criterion, "no criterion with a weight compares the lattice with a teacher's"),
        (without_weight, "no criterion with a weight compares the lattice with a teacher's"),
        (stored, "prefix: stored targets of the lattice are of other prefixes than the student's: leave out"),
        (other_tokens, "prefix: the teacher would read the student's prefix, but has another token list"),
        (transcripts_scored, "labels needs the teacher's lattice along the transcripts, lattice that along"),
    ],
)
def test_refused_in_one_line(change: Any, message: str) -> None:
    model = student(None)
    change(model)
    with pytest.raises(UserError) as error:
        write_labels(model, OwnPrefix(Schedule(1.0, 1.0), None))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_single_tokens_are_not_sampled() -> None:
    with pytest.raises(UserError, match="^scheduled_sampling: the model has RNNDecoder decoder"):
        sample_prefixes(student(None), Schedule(0.3, 0.3))
