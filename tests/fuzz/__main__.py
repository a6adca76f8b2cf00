"""Fuzz by number: `python -m tests.fuzz --inputs 100000 --seed 1`; one input: `--kind suites --seed 1 --number 7`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

from tests.fuzz.base import Guard, kinds, run


def main() -> int:
    """Run the inputs of every kind by its share; return 1 when any of them fails."""
    every = kinds()
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--inputs", type=int, default=10_000, metavar="N", help="number of inputs of all kinds together"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="SEED")
    parser.add_argument("--kind", choices=sorted(every), action="append", help="only these kinds (default: all)")
    parser.add_argument("--number", type=int, metavar="I", help="only this input of the kind")
    parser.add_argument("--start", type=int, default=0, metavar="I", help="first number of every kind (default: 0)")
    given = parser.parse_args()
    chosen = [every[name] for name in given.kind or sorted(every)]
    shares, guard, failures, seen = sum(kind.share for kind in chosen), Guard(), [], set()
    warnings.simplefilter("ignore")
    print(f"{'kind':<14} {'inputs':>8} {'accepted':>9} {'CPU s':>8} {'faults':>7}")
    total, started = 0, time.process_time()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        for kind in chosen:
            guard.accepted = 0
            begun, count = time.process_time(), max(1, round(given.inputs * kind.share / shares))
            numbers = range(given.start, given.start + count) if given.number is None else [given.number]
            found = 0
            for number in numbers:
                failure = run(guard, kind, given.seed, number, Path(place) / kind.name)
                if failure is not None:
                    found += 1
                    first = (kind.name, failure.fault.partition("\n")[0])
                    if first not in seen:  # of equal faults the first is shown
                        seen.add(first)
                        failures.append(failure)
                        print(failure, flush=True)
            total += len(numbers)
            spent = time.process_time() - begun
            print(f"{kind.name:<14} {len(numbers):>8,} {guard.accepted:>9,} {spent:>8.1f} {found:>7}", flush=True)
    print(f"{'all':<14} {total:>8,} {'':>9} {time.process_time() - started:>8.1f} {len(failures):>7} different")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
