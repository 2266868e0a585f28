"""What commands print for machines."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys

import pytest

from quire.cli import display
from quire.cli.display import loading_bar, print_json


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"perplexity": math.inf, "tokens": [{"logprob": -math.inf}, {"logprob": -0.5}], "pair": (1, math.nan)})
    printed = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert printed == {"perplexity": None, "tokens": [{"logprob": None}, {"logprob": -0.5}], "pair": [1, None]}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("delay", [0.0, 60.0])
def test_only_a_slow_start_shows_a_bar(monkeypatch: pytest.MonkeyPatch, delay: float) -> None:
    monkeypatch.setattr(sys, "stderr", _Terminal())
    monkeypatch.setattr(display, "BAR_DELAY_S", delay)
    with loading_bar("Loading m") as report:
        assert report is not None
        for done in range(3):
            report(done, 2)
    assert ("Loading m" in sys.stderr.getvalue()) == (delay == 0)


def test_a_start_without_a_terminal_is_not_watched(capsys: pytest.CaptureFixture[str]) -> None:
    with loading_bar("Loading m") as report:
        assert report is None
    assert not capsys.readouterr().err


def test_an_answer_starts_without_modules_that_it_does_not_need() -> None:
    script = "import sys, quire.cli.run_view, quire.executors.native; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "quire.engine.llm" in loaded
    assert not {"rich", "asyncio", "quire.models.quantized.methods"} & {*loaded}
