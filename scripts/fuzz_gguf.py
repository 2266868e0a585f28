"""Opens damaged GGUF files, a number of them, and counts what came of it: `python scripts/fuzz_gguf.py 10000 [FIRST_SEED]`.

Ends with an error at the first file that neither opens nor is refused with one of Quire's errors, that causes a warning, or that
makes Quire allocate much more than the file holds; the seed is printed then.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.gguf_mutations import outcome, write_mutation


def main() -> None:
    """Runs the number of seeds that the command line names."""
    count = int(sys.argv[1])
    warnings.simplefilter("error")
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="quire-fuzz-") as directory:
        path = Path(directory) / "m.gguf"
        for seed in range(first, first + count):
            path.unlink(missing_ok=True)
            write_mutation(path, seed)
            try:
                found[outcome(path)] += 1
            except BaseException:
                print(f"seed {seed}", file=sys.stderr)
                raise
    print(f"{count} damaged files from seed {first}: " + ", ".join(f"{number} {name}" for name, number in found.most_common()))


if __name__ == "__main__":
    main()
