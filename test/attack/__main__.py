"""``make attack [ARGS="PART ..."]``: attack the package, print the results; exit with status 1 on a fault."""

import argparse
import importlib
import random
import time

from harness import table

PARTS = {
    "fuzz": "every parser on damaged inputs",
    "damaged_stores": "stores of targets with bits flipped, files cut, swapped and foreign",
    "hostile_archives": "archives that try to write outside their directory, or to fill the disk",
    "audio_headers": "audio with false headers",
    "kills": "kill -9 at random moments, and two runs at once",
}


def main() -> int:
    """Run the parts and return the exit status."""
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__)
    listed = "; ".join(f"{name}: {text}" for name, text in PARTS.items())
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all. {listed}")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(10**6), help="default: a new one"
    )
    parser.add_argument("--tries", type=int, help="of each part (default: its own)")
    parser.add_argument("--only", help="one target or kind of a part")
    parser.add_argument("--number", type=int, help="one attempt of a target")
    args = parser.parse_args()
    unknown = [name for name in args.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; known: {', '.join(PARTS)}")
    print(f"seed {args.seed}", flush=True)
    started, outcomes = time.monotonic(), []
    for name in args.parts or PARTS:
        options = {
            key: getattr(args, key) for key in ("tries", "only", "number") if getattr(args, key) is not None
        }
        begin = time.monotonic()
        outcomes += importlib.import_module(name).run(args.seed, **options)
        print(f"{name}: {(time.monotonic() - begin) / 60:.1f} minutes", flush=True)
    print(f"\n{table(outcomes)}\n\nseed {args.seed}, {(time.monotonic() - started) / 60:.1f} minutes")
    return 1 if any(outcome.faults for outcome in outcomes) else 0


if __name__ == "__main__":
    raise SystemExit(main())
