"""Every example that uses a model runs, on a tiny one in the bundled model's place, and shows what it promises."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = {
    "kv_cache_by_hand.py": ["same tokens: True", "layer 0 K (1, 2, "],
    "batch.py": ["same tokens alone: True", "(64 tokens, length)"],
    "stream.py": ["> What is the capital of Italy?", ", 94 from the cache"],
    "score.py": ["perplexity", "rank 1"],
    "shared_prefix.py": [" 0 from the cache", " 320 from the cache", " 321 from the cache"],
}


@pytest.mark.parametrize("name", SHOWN)
def test_example_runs(name: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("quire.engine.loading.bundled_directory", lambda: tiny_model)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    output = capsys.readouterr().out
    for words in SHOWN[name]:
        assert words in output
    assert len((EXAMPLES / name).read_text().splitlines()) <= 40


def test_example_that_needs_torch_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match=r"pip install 'quire\[torch\]'"):
        runpy.run_path(str(EXAMPLES / "teacher_forcing.py"), run_name="__main__")
