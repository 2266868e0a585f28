"""Opening a model says when the slow executor answers without having been asked for."""

from __future__ import annotations

import pytest

from quire.cli.load import load_model
from quire.cli.options import EngineChoice, SamplingOptions
from quire.engine import resolve


@pytest.fixture
def _no_native_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "is_native_built", lambda: False)


@pytest.mark.usefixtures("_no_native_core")
def test_a_missing_native_core_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    load_model(EngineChoice(model=None, options={"kv_memory": "4MiB"}), SamplingOptions()).llm.close()
    captured = capsys.readouterr()
    assert "slow reference executor" in captured.err
    assert not captured.out


@pytest.mark.usefixtures("_no_native_core")
def test_the_reference_executor_is_no_surprise_to_who_asked_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    options = EngineChoice(model=None, options={"kv_memory": "4MiB", "executor": "reference"})
    load_model(options, SamplingOptions()).llm.close()
    assert "reference" not in capsys.readouterr().err
