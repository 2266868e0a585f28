"""Serves many requests with aborts and faults of the executor: `python scripts/soak_engine.py 100000 [SEED]`.

The model computes nothing, so all of the time goes to the engine. Ends with an error where the books are wrong at the end of a
tenth, a block is lost, a request has no end, or the process is more than 1 % larger at the end than after the second tenth.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.engine_soak import Soak

MAX_GROWTH = 1.01


def main(num_requests: int, seed: int) -> None:
    """Prints what became of the requests, and the resident bytes after each tenth."""
    soak = Soak(seed)
    began_s = time.process_time()
    soak.run(num_requests)
    spent_s = time.process_time() - began_s
    print(f"{num_requests} requests in {spent_s:.0f} s of a processor, {soak.faults.num_made} faults, books clean")
    print(", ".join(f"{number} {reason.value}" for reason, number in sorted(soak.reasons.items(), key=str)))
    print("resident after each tenth, MiB: " + " ".join(f"{each / 2**20:.2f}" for each in soak.resident[:10]))
    growth = soak.resident[9] / soak.resident[1]
    print(f"the last is {growth:.4f} of the second, at most {MAX_GROWTH}")
    if growth > MAX_GROWTH:
        sys.exit("memory grows")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
