"""Puts a real server under load and says which promises it kept; the exit code is 1 where one is broken.

    python scripts/load_server.py streams disconnects
    python scripts/load_server.py soak --minutes 5
    python scripts/load_server.py all

Timings hold on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.load.crowds import disconnects, streams
from scripts.load.endurance import heartbeats, sigterm, soak
from scripts.load.pressure import flood, overload, slow
from scripts.load.promises import Promise, show

_SCENARIOS: Mapping[str, Callable[[], list[Promise]]] = {
    "streams": streams,
    "disconnects": disconnects,
    "flood": flood,
    "overload": overload,
    "slow": slow,
    "sigterm": sigterm,
    "heartbeats": heartbeats,
}


def main() -> int:
    """Runs the scenarios that are named; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="+", choices=[*_SCENARIOS, "soak", "all"])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long `soak` takes; default 60")
    options = parser.parse_args()
    names = list(_SCENARIOS) if "all" in options.scenarios else options.scenarios
    is_kept = True
    for name in names:
        began_s = time.monotonic()
        print(f"{name} ...", flush=True)
        promises = soak(options.minutes) if name == "soak" else _SCENARIOS[name]()
        is_kept = show(name, promises) and is_kept
        print(f"{name}: {time.monotonic() - began_s:.0f} s", flush=True)
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
