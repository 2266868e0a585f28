"""Opens damaged models, one seed after the other, and counts what came of them. What is damaged, the scripts that use it say.

Ends with an error at the first model that neither opens nor is refused with one of Quire's errors that names what is wrong,
that causes a warning, that takes 20 seconds of a processor, or that makes Quire allocate much more than its files hold. The seed
is printed then.
"""

from __future__ import annotations

import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

_MAX_SECONDS = 20
_SPARE_BYTES = 1 << 30


def fuzz(write: Callable[[Path, int], Path], outcome: Callable[[Path], str]) -> None:
    """Writes and opens the models of the seeds that the command line names: `COUNT [FIRST_SEED]`."""
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    warnings.simplefilter("error")
    _limit_memory()
    signal.signal(signal.SIGVTALRM, _give_up)
    found: Counter[str] = Counter()
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory(prefix="quire-fuzz-") as directory:
            path = write(Path(directory), seed)
            signal.setitimer(signal.ITIMER_VIRTUAL, _MAX_SECONDS)
            try:
                found[outcome(path)] += 1
            except BaseException:
                print(f"seed {seed}", file=sys.stderr)
                raise
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    print(f"{count} damaged models from seed {first}: " + ", ".join(f"{number} {name}" for name, number in found.most_common()))


def _limit_memory() -> None:
    """Keeps the process from mapping a GiB more than it has mapped, where the operating system says how much that is."""
    status = Path("/proc/self/statm")
    if status.exists():
        mapped = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + _SPARE_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _give_up(_signal: int, _frame: object) -> None:
    raise TimeoutError(f"not done after {_MAX_SECONDS} seconds of a processor")
