"""Sends mutated requests to a server and counts what came of them: `python scripts/fuzz_server.py 20000 [FIRST_SEED]`.

Ends with an error at the first answer that is a 5xx, an error longer than 4 KiB or without the form of its API, a stream that
is no stream, or where a normal request is answered otherwise than before. The seed is printed then.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.server_fuzzing import fuzz

if __name__ == "__main__":
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    began_s = time.monotonic()
    found = asyncio.run(fuzz(count, first))
    print(f"{count} mutated requests from seed {first} in {time.monotonic() - began_s:.0f} s, no 5xx:")
    for outcome, number in sorted(found.items()):
        print(f"{number:6} {outcome}")
