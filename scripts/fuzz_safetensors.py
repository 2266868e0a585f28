"""Opens damaged model directories, and counts what came of them: `python scripts/fuzz_safetensors.py 10000 [FIRST_SEED]`."""

from __future__ import annotations

import sys
from pathlib import Path

from fuzzing import fuzz

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.safetensors_mutations import outcome, write_mutation

if __name__ == "__main__":
    fuzz(write_mutation, outcome)
