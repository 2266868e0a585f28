"""What `docs/training.md` shows can be done: its blocks run in order, and its example measures what it says."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", (ROOT / "docs" / "training.md").read_text(encoding="utf-8"), re.DOTALL)
ROW = re.compile(r"(one pass|no cache|cache) +(\d+) passes +([\d.]+) GFLOP +([\d.]+) s  logits differ by at most (\S+)")


def output_of(arguments: list[str], directory: Path, stdin: str = "") -> str:
    result = subprocess.run(
        [sys.executable, *arguments], input=stdin, capture_output=True, text=True, timeout=240, check=False, cwd=directory
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_block(kind: str, block: str, directory: Path) -> dict[str, str]:
    """Returns what the block printed, or for each `quire` command of a block what it printed."""
    if kind == "python":
        return {"python": output_of(["-"], directory, stdin=block)}
    commands = [line for line in block.splitlines() if line.startswith("quire ")]
    return {line: output_of(["-m", "quire.cli", *shlex.split(line, comments=True)[1:]], directory) for line in commands}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("document")


@pytest.fixture(scope="module")
def printed(directory: Path) -> list[dict[str, str]]:
    """What each block printed, run in order."""
    return [run_block(kind, block, directory) for kind, block in BLOCKS]


def test_the_document_teaches_a_model_that_answers(printed: list[dict[str, str]], directory: Path) -> None:
    lines = {line: text for of_block in printed for line, text in of_block.items()}
    answers = {line: text for line, text in lines.items() if line.startswith("quire run")}
    assert [text.strip() for text in answers.values()] == [line.partition("# ")[2] for line in answers] != []
    assert (directory / "calendar" / "training" / "curve.png").exists()
    assert (directory / "tuned" / "model.safetensors").exists()


def test_training_keeps_many_times_what_inference_caches(printed: list[dict[str, str]]) -> None:
    words = printed[0]["python"]
    kept, cached = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) bytes per token", words))
    assert cached == 5120
    assert kept > 20 * cached


def test_the_example_shows_equal_logits_at_very_different_cost(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quire.models.bundled.directory", lambda: tiny_model)
    runpy.run_path(str(ROOT / "examples" / "teacher_forcing.py"), run_name="__main__")
    rows = {
        name: (int(passes), float(flops), float(difference))
        for name, passes, flops, _, difference in ROW.findall(capsys.readouterr().out)
    }
    num_tokens = rows["cache"][0]
    assert [passes for passes, _, _ in rows.values()] == [1, num_tokens, num_tokens]
    assert rows["one pass"][1] == rows["cache"][1]
    assert rows["no cache"][1] > num_tokens / 3 * rows["cache"][1]
    assert max(difference for _, _, difference in rows.values()) < 1e-3
