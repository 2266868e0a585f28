"""One `quire bench` of two builds of Quire in turn, and how much longer each phase takes with the second.

    python benchmarks/two_builds.py ordered/src order-free/src --pairs 5 -- decode --config benchmarks/configs/qwen3-0.6b.json

The two are directories that hold the package `quire` with its compiled core. Close other programs first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

_COMMAND = "from quire.cli.main import main; main()"


def main() -> None:
    """Runs every pair and prints a line a phase."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("bench", nargs="+", metavar="BENCH", help="what follows `quire bench`, after --")
    options = parser.parse_args()
    pairs = [_pair(options.first, options.second, options.bench, number) for number in range(options.pairs)]
    for phase in pairs[0][0]:
        ratios = [second[phase] / first[phase] for first, second in pairs]
        seconds = [statistics.median(pair[side][phase] for pair in pairs) for side in (0, 1)]
        print(
            f"{phase}: {seconds[0] * 1e3:.1f} and {seconds[1] * 1e3:.1f} ms, "
            f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} pairs)"
        )


def _pair(first: Path, second: Path, bench: list[str], number: int) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the seconds of both; every other pair begins with the second."""
    if number % 2:
        after = _phases(second, bench)
        return _phases(first, bench), after
    return _phases(first, bench), _phases(second, bench)


def _phases(source: Path, bench: list[str]) -> dict[str, float]:
    """Returns the seconds of each phase of one run."""
    result = subprocess.run(
        [sys.executable, "-c", _COMMAND, "bench", *bench, "--json"],
        env={**os.environ, "PYTHONPATH": str(source.resolve())},
        stdout=subprocess.PIPE,
        check=True,
    )
    return {speed["name"]: speed["seconds"] for speed in json.loads(result.stdout)["speeds"]}


if __name__ == "__main__":
    main()
