"""`quire verify --training` on a tiny checkpoint, as a user runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from quire.cli.main import cli
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.protocol import Float32Array, StepBatch

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")


def compare(model: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        cli, ["verify", "--training", "-m", str(model), "--kv-memory", "64MiB", "--threads", "1", *arguments]
    )


def checks_of(result: Result) -> list[dict[str, Any]]:
    report = json.loads(result.stdout)
    assert report["has_passed"] is all(check["has_passed"] for check in report["checks"])
    checks: list[dict[str, Any]] = report["checks"]
    return checks


@pytest.mark.parametrize("chosen", ["reference", "torch"])
def test_native_and_the_chosen_executor_score_like_the_trainer(tiny_model: Path, chosen: str) -> None:
    result = compare(tiny_model, "--executor", chosen, "--json")
    assert result.exit_code == 0, result.output
    checks = checks_of(result)
    assert [check["executor"].split()[0] for check in checks] == ["native"] * 3 + [chosen] * 3
    assert [check["circumstance"] for check in checks[:3]] == ["whole", "chunks of 7", "after cached context"]
    assert [check["has_same_bits"] for check in checks] == [None, True, True, None, None, None]
    for check in checks:
        assert 0 < check["max_logprob_difference"] <= check["bound"] == 1e-4 or check["executor"].startswith("torch")
        assert check["mean_loss_difference"] <= check["max_loss_difference"] <= check["max_logprob_difference"]
        assert (check["num_cached_tokens"] > 0) is (check["circumstance"] == "after cached context")
        assert check["num_texts"] >= 3


def test_a_table_says_what_was_compared(tiny_model: Path) -> None:
    result = compare(tiny_model, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "after cached context" in result.stdout
    assert "mean logprob " in result.stdout
    assert "3 comparisons, 0 failed." in result.stdout


def with_bias(run: Any, size: float) -> Any:
    """Returns a `run` that is honest about whole prompts and raises one logit where tokens follow others."""

    def biased(self: NativeExecutor, batch: StepBatch) -> Float32Array:
        logits: Float32Array = run(self, batch).copy()
        logits[:, 0] += np.float32(size if batch.positions[0] > 0 else 0)
        return logits

    return biased


def test_scores_that_differ_fail(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NativeExecutor, "run", with_bias(NativeExecutor.run, 0.5))
    result = compare(tiny_model, "--json")
    assert result.exit_code == 1
    assert [check["has_passed"] for check in checks_of(result)] == [True, False, False]
    assert "FAIL" in compare(tiny_model).stdout


def test_other_bits_fail_although_they_are_near(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NativeExecutor, "run", with_bias(NativeExecutor.run, 2e-5))
    result = compare(tiny_model, "--json")
    assert result.exit_code == 1
    checks = checks_of(result)
    assert all(check["max_logprob_difference"] <= check["bound"] for check in checks)
    assert [check["has_same_bits"] for check in checks] == [None, False, False]


def test_without_torch_the_install_command_is_named(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "quire.verify.torch_scorer", None)
    result = compare(tiny_model)
    assert result.exit_code == 1
    assert "pip install 'quire[torch]'" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--full",), "--full belongs to the promises"),
        (("--kv-cache", "off"), "verify varies"),
        (("--max-context", "60"), "too short to compare scores"),
    ],
)
def test_what_cannot_be_compared_is_refused(tiny_model: Path, options: tuple[str, ...], words: str) -> None:
    result = compare(tiny_model, *options)
    assert result.exit_code == 2
    assert words in result.stderr
