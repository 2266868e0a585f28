"""`quire run --explain`: what the cache did for a prompt, beside the answer and in JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

OPTIONS = ("--max-context", "256", "--kv-memory", "1MiB", "--temperature", "0.7", "--seed", "1", "--max-tokens", "3")


def _run(model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quire.cli", "run", "-m", str(model), "a prompt of some letters", *OPTIONS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def test_explanation_is_told_on_standard_error_only(tiny_model: Path) -> None:
    plain, explained = _run(tiny_model), _run(tiny_model, "--explain")
    assert explained.stdout == plain.stdout
    assert plain.stderr == ""
    assert "nothing more is cached after this prefix" in explained.stderr
    assert "reused    0 of" in explained.stderr


def test_every_answer_is_explained_and_all_but_one_reuse_the_prompt(tiny_model: Path) -> None:
    found = json.loads(_run(tiny_model, "--explain", "--json", "-n", "3").stdout)
    explained = [answer["cache"] for answer in found["answers"]]
    assert [len(admissions) for admissions in explained] == [1, 1, 1]
    (first,), *others = explained
    assert (first["reused_tokens"], first["reason"]) == (0, "cold")
    assert all(other["reused_tokens"] >= other["tokens"] - 1 for (other,) in others)
    assert all(each["reused_tokens"] + each["computed_tokens"] == each["tokens"] for (each,) in explained)
    shown = _run(tiny_model, "--explain", "-n", "3").stderr
    assert [f"Prompt of answer {number}" in shown for number in (1, 2, 3, 4)] == [True, True, True, False]
