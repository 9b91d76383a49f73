"""Count, without a GPU, how often a training step waits for one, and how many operations it starts there.

Each method is compared with the step of the stock model; a transducer's stock step is one without the RNN-T
loss, for which ESPnet needs another package. What ESPnet's own code waits for is not ours.
"""

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.train.collate_fn import CommonCollateFn
from torch import Tensor, nn

from bench import store as stored
from bench import transducer
from bench.consistency import LATTICE as LATTICES
from bench.consistency import consistent
from bench.mutual import peers
from bench.report import table, verdict
from bench.speech_model import TOKENS, ModelSize, batch, build
from bench.stand_in_device import DEVICE, Counts, counted, to_device
from espnet_kd.criteria import build_criterion
from espnet_kd.host.losses import LossHooks
from espnet_kd.methods.distilled import Objective, distil
from espnet_kd.methods.nbest import COUNTS, LISTS, SCORES, NBest
from espnet_kd.methods.nbest_model import with_nbest
from espnet_kd.methods.own_labels import write_labels
from espnet_kd.methods.prune import PruneMethod
from espnet_kd.methods.quantise import QuantiseMethod
from espnet_kd.methods.sampling import OwnPrefix
from espnet_kd.methods.sampling_model import followers, sample_prefixes
from espnet_kd.methods.transducer import PiecewiseJoint, distil_transducer, with_lattice_loss
from espnet_kd.pseudo_label.normalise import Chain
from espnet_kd.rnnt import Joint, rnnt_distillation, rnnt_loss
from espnet_kd.rnnt.lattice import GPU_BLOCK
from espnet_kd.schedule import Schedule
from espnet_kd.targets.format import TapFormat, TargetRecord, text_checksum
from espnet_kd.targets.teacher import StoredTeacher, WithStoredTargets, to_rows
from espnet_kd.targets.worker import alone
from espnet_kd.teachers.experiment import Experiment
from espnet_kd.teachers.online import OnlineTeacher
from espnet_kd.teachers.options import Term
from espnet_kd.teachers.taps import LATTICE, Taps

SIZE = ModelSize(1, 16)
UTTERANCES, SECONDS = 3, 2.0
SHORTER = {"samples": 3000, "tokens": 2}  # all utterances but the first
HALF, MOVING = Schedule(0.5, 0.5), Schedule(0.1, 0.9, 0, 10)
CTC, DECODER, ENCODER = "ctc.ctc_lo", "decoder", "encoder"
VECTORS = {"type": "hidden", "student_dim": SIZE.width, "teacher_dim": SIZE.width}
ATTENTION: dict[str, dict[str, dict[str, Any]]] = {  # criteria of a CTC/attention student, by layer
    "KL": {CTC: {"type": "kl"}, DECODER: {"type": "kl"}},
    "hidden vectors": {ENCODER: {**VECTORS, "frame_weights": "nonblank"}},
    "essence, two teachers": {CTC: {"type": "topk", "k": 4}, DECODER: {"type": "topk", "k": 4}},
    "label sequences": {CTC: {"type": "sequence"}},
    "TutorNet": {ENCODER: {**VECTORS, "frame_weights": "deviation"}, CTC: {"type": "softmax_l2"}},
}
CODEBOOKS = {ENCODER: {"type": "mvq", "student_dim": SIZE.width, "teacher_dim": 2}}
HYPOTHESES, LISTED = 3, ((8, 7, 6), (5, 5, 0), (4, 0, 0))  # at most, and tokens of those of each utterance
KINDS = ("full", "collapsed", "one_best", "occupancy", "alignments", "sequence")
PLAIN, PLAIN_TRANSDUCER = "CTC/attention, stock", "transducer without its loss"
# Steps that draw random numbers on the device: those of another device are others.
RANDOM = ("scheduled sampling", "own prefixes, nucleus", "RNN-T, own prefixes, nucleus", "mutual learning")
# Waits in our own code: a transducer's encoder lengths, once, where ESPnet reads them one by one.
MOST_OWN = {PLAIN: 0, PLAIN_TRANSDUCER: 1}
LATTICE_SIZE = (32, 300, 50)  # utterances, frames, labels
CLASSES = (500, 5000)


class WithoutLoss(LossHooks):
    """Mixed in before a transducer: a step without an RNN-T loss, whatever computes that."""

    def transducer_part(self, encoder_out: Tensor, joint_out: Joint, *rest: Tensor) -> Any:
        """Return a loss that reaches all parameters."""
        return sum(x.sum() for x in (joint_out.enc, joint_out.dec, joint_out.weight, joint_out.bias))


@dataclass(frozen=True)
class StepCase:
    """A step to count: how to build the model, its batch, and the stock step that it is compared with."""

    build: Callable[[], nn.Module]
    data: Mapping[str, Any]
    stock: str


def teacher_of(models: Sequence[nn.Module], taps: Sequence[str]) -> OnlineTeacher:
    """Make an online teacher, or an ensemble, of models."""
    frozen = [model.eval().requires_grad_(False) for model in models]
    return OnlineTeacher([Experiment(m, Path("teacher"), Path("teacher/a.pth")) for m in frozen], taps)


def attention_student(criteria: Mapping[str, Mapping[str, Any]], teacher: Any = None) -> nn.Module:
    """Build a CTC/attention student; ``teacher`` is a number of models, or where stored targets come from."""
    terms = tuple(Term(tap.split(".")[0], MOVING, tap, tap) for tap in criteria)
    made = {t.name: build_criterion(**criteria[t.student_tap]) for t in terms}
    guides = [c.guide_tap for c in made.values() if c.guide_tap]
    student = build(SIZE)
    if not isinstance(teacher, StoredTeacher):
        teacher = teacher_of([build(SIZE) for _ in range(teacher or 1)], [*criteria, *guides])
    return distil(student, Objective(teacher, Taps(student, list(criteria)), terms, MOVING), made)


def sampled(own: OwnPrefix | None = None) -> nn.Module:
    """Build a student with scheduled sampling, or with prefixes of its own, which its teacher gets, too."""
    student = attention_student(ATTENTION["KL"])
    probability = Schedule(0.2, 0.3) if own is None else None
    sample_prefixes(student, probability, followers(student, own), own=own)
    return student


def smaller() -> nn.Module:
    """Build a student that is quantised, and pruned further in each step."""
    options = Namespace(quantise={"weights": "int8"}, prune={"target": 0.5, "end": 10})
    model: nn.Module = build(SIZE)
    for method in (QuantiseMethod(), PruneMethod()):
        model = method.attach(model, options, build)
    return model


def plain_transducer() -> nn.Module:
    """Build a transducer without an RNN-T loss."""
    model = transducer.build(SIZE, len(TOKENS))
    model.joint_network.__class__ = PiecewiseJoint
    model.__class__ = type("Plain", (WithoutLoss, type(model)), {})
    return model


def transducer_student(kind: str, teacher: Any = 1, vectors: bool = False) -> nn.Module:
    """Build a transducer student with a criterion on the lattice; ``teacher`` as of a CTC/attention one.

    With ``vectors`` its encoder and its CTC layer are compared, too.
    """
    student = transducer.build(SIZE, len(TOKENS))
    later = {} if kind == "sequence" else {"delay": 1}
    criteria = {"lattice": {"type": "transducer", "kind": kind, "reduction": "mean", **later}}
    if vectors:
        criteria |= {"hidden": ATTENTION["TutorNet"][ENCODER], "ctc": {"type": "kl"}}
    taps = {"lattice": LATTICE, "hidden": ENCODER, "ctc": "ctc_lin"}
    if not isinstance(teacher, StoredTeacher):
        models = [transducer.build(SIZE, len(TOKENS)) for _ in range(teacher)]
        teacher = teacher_of(models, [taps[name] for name in criteria])
    terms = tuple(Term(name, MOVING, taps[name], taps[name]) for name in criteria)
    objective = Objective(teacher, Taps(student, [taps[name] for name in criteria]), terms, HALF)
    made = {name: build_criterion(**options) for name, options in criteria.items()}
    return distil_transducer(student, objective, made)


def labels_of_its_own(top_p: float | None) -> nn.Module:
    """Build a transducer student that is compared with its teacher along labels that it writes itself."""
    student = transducer_student("full")
    write_labels(student, OwnPrefix(Schedule(1.0, 1.0), top_p))
    return student


def cases(folder: Path) -> dict[str, StepCase]:
    """Return every step that is counted, by name; the stock steps first."""
    data = uneven(batch(UTTERANCES, SECONDS))
    sizes = replace(transducer.CASES["an4"], utterances=UTTERANCES, seconds=SECONDS)
    lattices = uneven(transducer.batch(replace(sizes, classes=len(TOKENS))))
    found = {
        PLAIN: StepCase(lambda: build(SIZE), data, PLAIN),
        PLAIN_TRANSDUCER: StepCase(plain_transducer, lattices, PLAIN_TRANSDUCER),
    }
    for name, criteria in ATTENTION.items():
        count = 2 if "two" in name else 1
        found[name] = StepCase(lambda c=criteria, n=count: attention_student(c, n), data, PLAIN)
    found["scheduled sampling"] = StepCase(sampled, data, PLAIN)
    for name, top_p in (("greedy", None), ("nucleus", 0.9)):
        own = OwnPrefix(Schedule(1.0, 1.0), top_p)
        found[f"own prefixes, {name}"] = StepCase(lambda own=own: sampled(own), data, PLAIN)
        labels = partial(labels_of_its_own, top_p)
        found[f"RNN-T, own prefixes, {name}"] = StepCase(labels, lattices, PLAIN_TRANSDUCER)
    found["for int8, pruned"] = StepCase(smaller, data, PLAIN)
    teacher, with_targets = stored_targets(folder, data)
    essence = ATTENTION["essence, two teachers"]
    found["stored targets"] = StepCase(lambda: attention_student(essence, teacher), with_targets, PLAIN)
    found["mutual learning"] = StepCase(lambda: peers(build(SIZE), build(SIZE), True), data, PLAIN)
    plain = PLAIN_TRANSDUCER
    found["RNN-T"] = StepCase(lambda: with_lattice_loss(transducer.build(SIZE, len(TOKENS))), lattices, plain)
    two_views = {tap.split(".")[0]: {"type": "kl", "tap": tap} for tap in ATTENTION["KL"]}
    found["two views"] = StepCase(lambda: consistent(build(SIZE), two_views), data, PLAIN)
    taught = ATTENTION["KL"]
    found["two views, with a teacher"] = StepCase(
        lambda: consistent(attention_student(taught), two_views), data, PLAIN
    )
    found["RNN-T, two views"] = StepCase(
        lambda: consistent(transducer.build(SIZE, len(TOKENS)), LATTICES), lattices, plain
    )
    for kind in KINDS:
        found[f"RNN-T, {kind}"] = StepCase(lambda k=kind: transducer_student(k), lattices, plain)
    found["RNN-T, two teachers"] = StepCase(lambda: transducer_student("one_best", 2), lattices, plain)
    of_store, with_lattices = stored_lattices(folder, lattices)
    found["RNN-T, stored"] = StepCase(lambda: transducer_student("collapsed", of_store), with_lattices, plain)
    vectors = partial(transducer_student, "full", vectors=True)
    found["RNN-T, hidden vectors"] = StepCase(vectors, lattices, plain)
    coded, with_codes = stored_codes(folder, data)
    found["codebooks"] = StepCase(lambda: attention_student(CODEBOOKS, coded), with_codes, PLAIN)
    lists = {PLAIN: (partial(build, SIZE), CTC, data)}
    lists[plain] = partial(transducer.build, SIZE, len(TOKENS)), LATTICE, lattices
    for stock, (make, tap, batch_) in lists.items():
        listed = partial(with_lists, make, tap)
        found[f"n-best lists, {tap}"] = StepCase(listed, batch_ | random_lists(), stock)
    return found


def with_lists(make: Callable[[], nn.Module], tap: str) -> nn.Module:
    """Build a model that learns from n-best lists."""
    model: nn.Module = with_nbest(make(), NBest(Path("records"), HYPOTHESES, HALF, tap, Chain([])))
    return model


def random_lists() -> dict[str, Tensor]:
    """Make n-best lists of a batch; an utterance may have fewer hypotheses than others."""
    tokens, counts = torch.randint(2, len(TOKENS) - 1, (UTTERANCES, 8, HYPOTHESES)), torch.tensor(LISTED)
    scores = torch.randn(counts.shape).masked_fill(counts == 0, -torch.inf)
    found = {LISTS: tokens, COUNTS: counts, SCORES: scores}
    return found | {f"{name}_lengths": torch.full((UTTERANCES,), x.shape[1]) for name, x in found.items()}


def uneven(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make all utterances but the first shorter."""
    data["speech_lengths"][1:] -= SHORTER["samples"]
    data["text_lengths"][1:] -= SHORTER["tokens"]
    data["text"][1:, -SHORTER["tokens"] :] = -1
    return data


def stored_targets(folder: Path, data: Mapping[str, Tensor]) -> tuple[StoredTeacher, dict[str, Any]]:
    """Write random targets of a batch, see ``with_store``."""
    with torch.no_grad():
        frames = build(SIZE).encode(data["speech"], data["speech_lengths"])[1].tolist()
    taps = {tap: TapFormat("topk", len(TOKENS), 4) for tap in (CTC, DECODER)}
    counts = zip(frames, data["text_lengths"].tolist(), strict=True)
    made = [stored.make_records(taps, {CTC: t, DECODER: n + 1}, 1, 1.0) for t, n in counts]
    return with_store(folder / "targets", data, taps, [record.rows for (record,) in made])


def stored_codes(folder: Path, data: Mapping[str, Tensor]) -> tuple[StoredTeacher, dict[str, Any]]:
    """Write random codes of the encoder's output for a batch, see ``with_store``."""
    tap = TapFormat("codes", CODEBOOKS[ENCODER]["teacher_dim"])
    with torch.no_grad():
        frames = build(SIZE).encode(data["speech"], data["speech_lengths"])[1].tolist()
    rows = [{ENCODER: np.zeros(t, tap.row)} for t in frames]
    return with_store(folder / "codes", data, {ENCODER: tap}, rows)


def stored_lattices(folder: Path, data: Mapping[str, Tensor]) -> tuple[StoredTeacher, dict[str, Any]]:
    """Write lattices of three classes of a batch, see ``with_store``."""
    tap, counts = TapFormat("collapsed", len(TOKENS)), data["text_lengths"].tolist()
    found = teacher_of([transducer.build(SIZE, len(TOKENS))], [LATTICE]).targets(**data)[LATTICE]
    texts = [text[:n].tolist() for text, n in zip(data["text"], counts, strict=True)]
    rows = [{LATTICE: to_rows(alone(found, i), tap, text)} for i, text in enumerate(texts)]
    return with_store(folder / "lattices", data, {LATTICE: tap}, rows)


def with_store(
    folder: Path, data: Mapping[str, Tensor], taps: dict[str, TapFormat], rows: Sequence[dict[str, Any]]
) -> tuple[StoredTeacher, dict[str, Any]]:
    """Write a store; return what reads it, and the batch as processes that load data make it."""
    records, utterances = [], []
    for i, of_taps in enumerate(rows):
        speech = data["speech"][i, : data["speech_lengths"][i]]
        text = data["text"][i, : data["text_lengths"][i]]
        records.append(TargetRecord(f"u{i}", len(speech), text_checksum(text.tolist()), of_taps))
        utterances.append((f"u{i}", {"speech": speech.numpy(), "text": text.numpy()}))
    teacher = StoredTeacher(stored.write(folder, records, taps), list(taps))
    prepare = WithStoredTargets(None, folder, list(taps))
    loaded = [(utt, prepare(utt, one)) for utt, one in utterances]
    names, tensors = CommonCollateFn(int_pad_value=-1)(loaded)
    return teacher, {**tensors, "utt_id": names}


def count_step(case: StepCase) -> Counts:
    """Count the second step of a model."""
    torch.manual_seed(0)
    model = case.build()
    names = [f"u{i}" for i in range(UTTERANCES)]
    with counted() as counts:
        to_device(model)
        objective = getattr(model, "kd_objective", None)
        for experiment in getattr(getattr(objective, "teacher", None), "experiments", ()):
            to_device(experiment.model)
        for _ in range(2):
            given = {name: x.to(DEVICE) if isinstance(x, Tensor) else x for name, x in case.data.items()}
            counts.waits.clear()
            counts.operations.clear()
            model(**{"utt_id": names} | given)[0].backward()
    return counts


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let convolutions and recurrent layers compute in float32 on a GPU; by default cuDNN rounds to TF32."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@without_tf32()
def on_device(case: StepCase, device: str, scope: AbstractContextManager[Any] | None = None) -> list[Tensor]:
    """Return loss and gradients of a model's step on a real device, copied to the CPU.

    Dropout and SpecAugment are off: their random numbers differ between devices.
    """
    torch.manual_seed(0)
    model = case.build().to(device)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.specaug = None
    names = [f"u{i}" for i in range(UTTERANCES)]
    given = {name: x.to(device, copy=True) if isinstance(x, Tensor) else x for name, x in case.data.items()}
    with scope or nullcontext():
        loss = model(**{"utt_id": names} | given)[0]
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return [x.detach().double().cpu() for x in (loss, gradient)]


def count_lattice(kind: str | None, classes: int) -> int:
    """Count the operations of the RNN-T loss, or of a distillation, of a batch as large as on a GPU.

    The models are narrow, but their lattice is cut into blocks as one of these classes would be.
    """
    batch_size, frames, labels = LATTICE_SIZE
    chunk = GPU_BLOCK // max(classes, 640)
    with counted() as counts:

        def joint() -> Joint:
            shapes = ((batch_size, frames, 4), (batch_size, labels + 1, 4), (6, 4), (6,))
            return Joint(*(torch.randn(shape).to(DEVICE).requires_grad_() for shape in shapes))

        student, teacher = joint(), joint()
        text = torch.randint(1, 6, (batch_size, labels)).to(DEVICE)
        lengths = torch.full((batch_size,), frames), torch.full((batch_size,), labels)
        counts.operations.clear()
        if kind is None:
            loss = rnnt_loss(student, text, *lengths, chunk=chunk)
        else:
            weights = {"rnnt_weight": 1.0, "kd_weight": 1.0}
            loss = rnnt_distillation(student, teacher, text, *lengths, kind=kind, chunk=chunk, **weights).loss
        loss.backward()
    return sum(counts.operations.values())


def main() -> bool:
    """Print the counts of every step; return True if our own code waits no more than it may."""
    rows, worst, found = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases(Path(folder)).items():
            counts = found[name] = count_step(case)
            base = found[case.stock]
            worst[case.stock] = max(worst.get(case.stock, 0), counts.own)
            more = [sum(x.values()) - sum(y.values()) for x, y in counts.compared(base)]
            cells = sum(counts.waits.values()), counts.own, f"{more[0]:+d}", f"{more[1]:+d}"
            rows.append([name, *map(str, cells)])
    print("One step of each method; operations are calls of torch's kernels, without views.\n")
    head = ["step", "waits", "in espnet_kd", "more waits than stock", "more operations"]
    print(table(head, rows) + "\n")
    rows = [
        [name or "RNN-T loss alone", *(str(count_lattice(name, classes)) for classes in CLASSES)]
        for name in (None, *KINDS)
    ]
    batch_size, frames, labels = LATTICE_SIZE
    print(f"Operations on a lattice of {batch_size} x {frames} frames x {labels} labels\n")
    print(table(["kind", *(f"{classes} classes" for classes in CLASSES)], rows) + "\n")
    checks = [
        verdict(f"waits in espnet_kd, against: {stock}", worst[stock], at_most=most)
        for stock, most in MOST_OWN.items()
    ]
    print("\n".join(line for line, _ in checks))
    return all(met for _, met in checks)
