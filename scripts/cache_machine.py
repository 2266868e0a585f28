"""Random use of pool, manager and scheduler, every invariant checked: `python scripts/cache_machine.py 2000000 [FIRST_SEED]`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.cache_moves import wander

NUM_MOVES = 40


def main(num_operations: int, seed: int) -> None:
    """Wanders through worlds of successive seeds until so many operations were made; ends with the first that fails."""
    tally: Counter[str] = Counter()
    began_s, first = time.process_time(), seed
    while tally["operations"] < num_operations:
        try:
            wander(seed, NUM_MOVES, tally)
        except BaseException:
            print(f"seed {seed}", file=sys.stderr)
            raise
        seed += 1
    spent_s = time.process_time() - began_s
    rate = tally["operations"] / spent_s
    print(f"{tally['operations']} operations in worlds {first} to {seed - 1}, {rate:.0f} a second of a processor")
    print(", ".join(f"{number} {name}" for name, number in sorted(tally.items())))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
