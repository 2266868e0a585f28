"""What loading a model reads: its whole content only where something is kept under its fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, load_model
from quire.executors.native import available_isas
from quire.models import checkpoint as checkpoints
from quire.models.content_digest import MappedFile
from quire.models.spec import ModelSpec


@pytest.fixture
def identified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were identified."""
    found: list[str] = []
    original = checkpoints.fingerprint

    def noting(spec: ModelSpec, files: Sequence[MappedFile], *rest: Any) -> bytes:
        found.extend(file.path.name for file in files)
        return original(spec, files, *rest)

    monkeypatch.setattr(checkpoints, "fingerprint", noting)
    return found


def test_blocks_that_later_prompts_find_are_kept_under_a_fingerprint(identified: list[str]) -> None:
    LLM(kv_memory="1MiB").close()
    assert identified == ["model.safetensors"]


@pytest.mark.parametrize("options", [{"prefix_cache": "off"}, {"kv_cache": "off"}])
def test_without_a_prefix_cache_weight_files_are_not_identified(identified: list[str], options: dict[str, str]) -> None:
    with LLM(kv_memory="1MiB", **options) as llm:
        assert llm.generate("a")[0].outputs[0].token_ids
    assert not identified


def test_a_model_without_a_scheduler_is_not_identified(identified: list[str]) -> None:
    load_model(executor="reference", kv_memory="1MiB")
    assert not identified


@pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
def test_packed_weights_are_kept_under_a_fingerprint(identified: list[str], tmp_path: Path) -> None:
    LLM(kv_memory="1MiB", prefix_cache="off", packed_cache=tmp_path).close()
    assert identified == ["model.safetensors"]
    assert len(list(tmp_path.iterdir())) == 1
