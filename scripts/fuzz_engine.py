"""Runs the whole engine under random load and compares every answer: `python scripts/fuzz_engine.py 10000 [FIRST_SEED] [--long]`.

A world of forty requests has a tiny random model, a KV format and a pool that is always full; with `--long` ten requests of up to
1,400 tokens. Ends with an error at the first completion that is not the same, bit by bit, alone and without a cache, and at the
first block that is lost. The seed is printed then.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.engine_fuzz import fuzz


def main(num_requests: int, seed: int, *, is_long: bool) -> None:
    """Runs worlds of successive seeds until so many requests have ended."""
    tally: Counter[str] = Counter()
    began_s, first = time.process_time(), seed
    while tally["requests"] < num_requests:
        tally += fuzz([seed], 10 if is_long else 40, is_long=is_long)
        seed += 1
    print(f"worlds {first} to {seed - 1} in {time.process_time() - began_s:.0f} s of a processor, no difference:")
    for name, number in sorted(tally.items()):
        print(f"{number:8} {name}")


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:] if each != "--long"]
    main(numbers[0], numbers[1] if len(numbers) > 1 else 0, is_long="--long" in sys.argv)
