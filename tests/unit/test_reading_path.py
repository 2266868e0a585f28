"""The engine in ten files: the path that docs/architecture.md lists exists, is complete, and does not grow."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

import pytest

import quire
from quire.text.tokenizer import Tokenizer
from support.fake_engine import FakeExecutor, make_core, run_all, submission, write_tokenizer

MAX_FILES = 10
MAX_LINES = 2_000
SOURCE = Path(quire.__file__).parent
DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"
POLICY = {
    f"sched/{name}.py" for name in ("turns", "shares", "pace", "places", "room", "step_pass", "queue", "limits", "first_draws")
}
CALLED_ON_THE_WAY = {*POLICY, "engine/capacity.py", "engine/books.py", "engine/copying.py"}


def listed_files() -> dict[str, int]:
    """Returns the files of the document's table and how many lines it says they have."""
    section = DOCUMENT.read_text(encoding="utf-8").split("## The engine in ten files")[1].split("\n## ")[0]
    return {name: int(lines) for name, lines in re.findall(r"^\| `([\w/]+\.py)` \| (\d+) \|", section, re.MULTILINE)}


def num_lines(name: str) -> int:
    return len((SOURCE / name).read_text(encoding="utf-8").splitlines())


def test_the_path_does_not_grow() -> None:
    files = listed_files()
    assert 0 < len(files) <= MAX_FILES
    assert sum(num_lines(name) for name in files) <= MAX_LINES


@pytest.mark.parametrize("name", listed_files())
def test_the_document_says_how_long_a_file_is(name: str) -> None:
    assert num_lines(name) == pytest.approx(listed_files()[name], abs=15)


def test_a_step_runs_no_file_of_engine_or_scheduler_that_the_document_does_not_list(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    core = make_core(FakeExecutor(), Tokenizer.from_directory(tmp_path))
    visited: set[str] = set()

    def note(frame: FrameType, _event: str, _argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(SOURCE):
            visited.add(path.relative_to(SOURCE).as_posix())

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run_all(
            core, submission("drawn", (*range(20), 3), temperature=1.0, seed=1), submission("scored", (1, 2), prompt_logprobs=1)
        )
    finally:
        sys.setprofile(before)
    on_the_path = {name for name in visited if name.startswith(("engine/", "sched/", "kv/manager"))} - CALLED_ON_THE_WAY
    assert on_the_path == {name for name in listed_files() if name in visited}
    assert {"engine/core.py", "engine/batch.py", "engine/step_sampler.py", "sched/scheduler.py"} <= on_the_path
