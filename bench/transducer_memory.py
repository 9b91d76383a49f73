"""Measure the peak memory of a step of transducer distillation for different numbers of classes.

It must not grow with them beyond the block of nodes whose logits are in memory: the lattice never is. Each
step runs in a process of its own: ``python -m bench.transducer_memory CLASSES plain|distilled``.
"""

import argparse
import logging
from dataclasses import replace

import torch

from bench.online_teacher import training_step
from bench.report import table, verdict
from bench.rnnt.memory import Megabytes, MemoryWatch, printed_by
from bench.transducer import CASES, batch, build, distilled
from espnet_kd.methods.transducer import with_lattice_loss
from espnet_kd.rnnt.lattice import default_chunk
from espnet_kd.teachers.taps import lattice

CLASSES = (500, 2000, 8000)
CASE = CASES["pieces"]
BLOCKS = 4.0  # logits of student and teacher, their distributions and gradient


def main() -> bool:
    """Measure each step and print a table; return True if more classes only add the size of blocks."""
    rows, added = [], []
    for classes in CLASSES:
        plain, taught = (peak(classes, who) for who in ("plain", "distilled"))
        nodes, block = sizes(classes)
        added.append(taught - plain)
        cells = (plain, taught, taught - plain, block, nodes * classes * 4 / 1e6)
        rows.append([str(classes), *(f"{cell:.0f}" for cell in cells)])
    print(f"Peak memory of a step, {replace(CASE, classes=CLASSES[-1])}\n")
    print(table(["classes", "RNN-T MB", "distillation MB", "more MB", "block MB", "lattice MB"], rows))
    title = f"what distillation adds, {CLASSES[-1]} classes less {CLASSES[0]}, in blocks"
    line, met = verdict(title, (added[-1] - added[0]) / sizes(CLASSES[-1])[1], at_most=BLOCKS)
    print(f"\n{line}")
    return met


def sizes(classes: int) -> tuple[int, Megabytes]:
    """Return the number of nodes of the batch's lattice, and the megabytes of a block's logits."""
    data = batch(replace(CASE, classes=classes))
    teacher = build(CASE.teacher, classes)
    with torch.no_grad():
        encoded, lengths = teacher.encode(data["speech"], data["speech_lengths"])
        joint = lattice(teacher, encoded, data["text"])
    return joint.shape[0] * joint.shape[1] * joint.shape[2], default_chunk(joint) * classes * 4 / 1e6


def peak(classes: int, who: str) -> Megabytes:
    """Measure how much a step adds to the peak memory of its process, in a new process."""
    return printed_by("bench.transducer_memory", str(classes), who)


def measure(classes: int, who: str) -> Megabytes:
    """Measure a step in this process, after one that loads libraries and makes the optimiser's moments."""
    torch.manual_seed(0)
    case = replace(CASE, classes=classes)
    student = build(case.student, classes)
    if who == "plain":
        model = with_lattice_loss(student)
    else:
        model = distilled(student, build(case.teacher, classes).eval().requires_grad_(False))
    data = batch(case)
    step = training_step(model, data)
    step()
    model.zero_grad()
    with MemoryWatch() as watch:
        step()
    return watch.growth


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser()
    parser.add_argument("classes", type=int)
    parser.add_argument("who", choices=("plain", "distilled"))
    arguments = parser.parse_args()
    print(measure(arguments.classes, arguments.who))
