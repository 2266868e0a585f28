"""The stories of `docs/kv-cache.md` are what its examples print."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STORIES = [("text", "ten_block_pool.py", 20), ("steps", "own_tiles.py", 12)]
"""How a story is fenced, which example prints it, and how many lines of it are told at least."""


@pytest.mark.parametrize(("fence", "example", "least"), STORIES)
def test_every_state_in_a_story_is_printed_by_its_example_in_that_order(
    fence: str, example: str, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = iter(printed_by(example, capsys))
    steps = [line for line in told_in(fence) if not is_explanation(line)]
    assert len(steps) >= least
    assert all(line in printed for line in steps)


@pytest.mark.parametrize(("fence", "example"), [story[:2] for story in STORIES])
def test_the_explanations_in_a_story_are_printed(fence: str, example: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = [line for line in told_in(fence) if is_explanation(line)]
    printed = [line for line in printed_by(example, capsys) if is_explanation(line)]
    assert len(told) >= 2
    assert set(told) <= set(printed)


def told_in(fence: str) -> list[str]:
    blocks = re.findall(rf"```{fence}\n(.*?)```", (ROOT / "docs/kv-cache.md").read_text(), flags=re.DOTALL)
    return "".join(blocks).splitlines()


def printed_by(example: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    runpy.run_path(str(ROOT / "examples" / example))
    return capsys.readouterr().out.splitlines()


def is_explanation(line: str) -> bool:
    return re.match(r"[A-Z]: reused", line) is not None
