"""Options of `LLM`: what cannot work is refused with what can, and what follows where an option is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire import LLM
from quire.errors import ConfigError, ExecutorUnavailableError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float64"}, "auto, float32, bfloat16"),
        ({"quantize": "int3"}, "none, int8, int4"),
        ({"kv_format": "fp8"}, "auto, float32, bfloat16"),
        ({"kv_cache": "maybe"}, "paged, off"),
        ({"prefix_cache": "yes"}, "on, off"),
        ({"executor": "magic"}, "auto, native, reference"),
        ({"kv_memory": "lots"}, "512MiB"),
        ({"kv_memory": 100}, "one block"),
        ({"max_context": 513}, "512"),
        ({"max_context": 512, "kv_memory": "100KiB"}, "512 tokens"),
        ({"kv_memory": 0}, "kv_memory"),
        ({"kv_memory": "0GiB"}, "kv_memory"),
        ({"kv_memory": True}, "kv_memory"),
        ({"kv_memory": b"1GiB"}, "kv_memory"),
        ({"threads": 0}, "threads"),
        ({"threads": "2"}, "given: '2'"),
        ({"max_context": 1}, "2 or more"),
        ({"gpu_memory_utilization": 0.9}, "kv_memory is a size"),
    ],
)
def test_option_that_cannot_work_says_what_can(tiny_model: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LLM(tiny_model, **({"executor": "reference"} | options))  # type: ignore[typeddict-item]


def test_threads_come_from_the_option_then_from_the_environment(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_THREADS", "3")
    with LLM(tiny_model, executor="reference", kv_memory="1MiB") as llm:
        assert llm.config.threads == 3
    with LLM(tiny_model, executor="reference", kv_memory="1MiB", threads=1) as llm:
        assert llm.config.threads == 1


def test_missing_native_core_is_refused_only_when_asked_for(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.engine.resolve.NATIVE_CORE", "quire.native.not_built")
    with pytest.raises(ExecutorUnavailableError, match="executor='reference'"):
        LLM(tiny_model, executor="native")
    with LLM(tiny_model, kv_memory="1MiB") as fallback:
        assert fallback.core.executor.name.startswith("reference")
