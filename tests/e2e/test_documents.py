"""What the documents tell people to type works: README blocks and examples run as written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in re.split(r"\n| && ", block)
    if line.startswith("quire ")
]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MAX_EXAMPLE_LINES = 40


def run(arguments: list[str], stdin: str = "") -> str:
    result = subprocess.run(
        [sys.executable, *arguments], input=stdin, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: block.splitlines()[0][:40])
def test_readme_python_runs(block: str) -> None:
    assert run(["-"], stdin=block)


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_command_runs(command: str) -> None:
    assert run(["-m", "quire.cli", *shlex.split(command)[1:]])


def test_readme_shows_python_and_commands() -> None:
    assert len(PYTHON_BLOCKS) >= 2
    assert 'quire run "What is the capital of France?"' in COMMANDS


def test_readme_shows_a_measured_table() -> None:
    assert "BENCHMARK-TABLE" not in README
    assert re.search(r"\| decode, batch 1 \| [\d.]+ tokens/s \| [\d.]+ tokens/s \| [\d.]+x \|", README)


def test_the_readme_question_is_answered() -> None:
    assert "Paris" in run(["-m", "quire.cli", "run", "What is the capital of France?"])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short_and_runs(example: Path) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) < MAX_EXAMPLE_LINES
    assert run([str(example)])


@pytest.mark.parametrize("document", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]), ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target
