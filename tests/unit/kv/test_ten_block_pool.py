"""The story of `docs/kv-cache.md` is what the example prints."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_every_state_in_the_story_is_printed_by_the_example_in_that_order(capsys: pytest.CaptureFixture[str]) -> None:
    story = re.findall(r"```text\n(.*?)```", (ROOT / "docs/kv-cache.md").read_text(), flags=re.DOTALL)
    runpy.run_path(str(ROOT / "examples/ten_block_pool.py"))
    printed = iter(capsys.readouterr().out.splitlines())
    told = "".join(story).splitlines()
    steps = [line for line in told if not re.match(r"[A-Z]:", line)]
    assert len(steps) > 20
    assert all(line in printed for line in steps)


def test_the_explanations_in_the_story_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples/ten_block_pool.py"))
    printed = capsys.readouterr().out.splitlines()
    told = re.findall(r"^[A-Z]: reused .*$", (ROOT / "docs/kv-cache.md").read_text(), flags=re.MULTILINE)
    assert told == printed_explanations(printed)[:2]


def printed_explanations(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r"[A-Z]: reused", line)]
