"""Weights that are quantized on loading: which text tells what matters, and where none does."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from quire.engine.loading import load_executor
from quire.engine.options import EngineOptions, engine_config
from quire.errors import ConfigError
from quire.executors.native import available_isas
from quire.models import bundled

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("QUIRE_ISA", available_isas()[-1] if available_isas()[-1] != "amx_bf16" else "avx512_bf16")
    return tmp_path / "cache" / "quire" / "importance"


def numerics(model: Path | None = None, **options: object) -> str:
    asked: EngineOptions = {"kv_memory": "1MiB", "threads": 1, **options}  # type: ignore[typeddict-item]
    _, executor, _ = load_executor(model, engine_config(asked))
    return executor.numerics


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_the_bundled_text_is_the_default_and_is_run_once(quantize: str, cache: Path) -> None:
    calibrated = numerics(quantize=quantize)
    (entry,) = cache.iterdir()
    written = entry.stat().st_mtime_ns
    assert f"weights={quantize} by " in calibrated
    assert "by none" not in calibrated
    assert numerics(quantize=quantize) == calibrated
    assert entry.stat().st_mtime_ns == written
    assert numerics(quantize=quantize, calibrate="none") == f"{calibrated.partition(' by ')[0]} by none kv=bfloat16"


def test_a_text_of_ones_own_gives_other_numerics(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A page about ships. " * 40)
    others = {numerics(quantize="int4"), numerics(quantize="int4", calibrate="none")}
    assert numerics(quantize="int4", calibrate=str(text)) not in others


def test_a_text_is_asked_for_only_where_weights_are_quantized(cache: Path) -> None:
    assert " by " not in numerics()
    assert not cache.exists()


@pytest.mark.parametrize(("content", "problem"), [(b"\xff\xfe", "cannot be read"), (b"", "too short")])
def test_a_text_that_says_nothing_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        numerics(quantize="int8", calibrate=text)


def test_a_model_without_a_tokenizer_is_quantized_without_calibration_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    shutil.copytree(bundled.directory(), model)
    for path in model.glob("tokenizer*"):
        path.unlink()
    with caplog.at_level(logging.WARNING, "quire"):
        assert "by none" in numerics(model, quantize="int4")
    assert "without calibration" in caplog.text
