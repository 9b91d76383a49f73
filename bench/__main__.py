"""``python -m bench [PART ...]``: run all parts, or some; exit status 1 if a target is missed."""

import argparse
import importlib
import logging
import os

# Part to its module and what it measures; ``main() -> bool`` of a module is True if its target is met.
PARTS = {
    "online_teacher": ("bench.online_teacher", "a step with an online teacher against its two halves"),
    "hugging_face_teacher": ("bench.hugging_face_teacher", "the same with a teacher of transformers"),
    "mutual": ("bench.mutual", "a step of two peers against one of one model"),
    "consistency": ("bench.consistency", "a step of two views of a half batch against two half batches"),
    "transducer": (
        "bench.transducer",
        "a distillation step of transducers against what it cannot do without",
    ),
    "transducer_memory": (
        "bench.transducer_memory",
        "what a distillation step of transducers holds, by the number of classes",
    ),
    "divergences": ("bench.divergences", "criteria on 50,000 classes: memory and time, by chunks or not"),
    "device_step": ("bench.device_step", "how often a step waits for a GPU (needs none)"),
    "store": ("bench.store", "targets on disk: size, speed, and what reading them adds to a step"),
    "codebooks": ("bench.codebooks", "codes of hidden vectors: error by number of codebooks, size, time"),
    "scale": ("bench.scale", "the stages on the lists of a million utterances (ten minutes)"),
    "rnnt": ("bench.rnnt", "RNN-T loss and lattice distillation against plain torch (half an hour)"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the parts and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    listed = "; ".join(f"{name}: {text}" for name, (_, text) in PARTS.items())
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all. {listed}")
    chosen = parser.parse_args(argv).parts or list(PARTS)
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; known: {', '.join(PARTS)}")

    logging.disable(logging.WARNING)  # ESPnet warns of deprecated layers at every model
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
    import torch

    from bench.report import environment

    print(environment())
    met = True
    for name in chosen:
        module, text = PARTS[name]
        print(f"\n## {name}: {text}\n", flush=True)
        torch.set_num_threads(1)  # a part may take more, and says so
        met = importlib.import_module(module).main() and met
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
