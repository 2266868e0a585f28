"""What is stored decides whether the head is a matrix of its own; `tie_word_embeddings` alone does not."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import CheckpointError
from quire.models.checkpoint import Checkpoint, load_checkpoint, read_spec
from support.configs import CONFIGS
from support.safetensors_writer import safetensors_bytes, write_sharded
from support.stored import Tensors, stored_tensors

HEAD = "lm_head.weight"
EMBEDDINGS = {"gpt2": "wte.weight"}


@pytest.fixture(params=CONFIGS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[None, 2], ids=["one file", "two shards"])
def num_shards(request: pytest.FixtureRequest) -> int | None:
    count: int | None = request.param
    return count


def embedding_of(family: str) -> str:
    return EMBEDDINGS.get(family, "embed_tokens.weight")


def tensors_of(family: str) -> Tensors:
    """Returns tensors of which the head, if there is one, differs from the embedding."""
    tensors = stored_tensors(family)
    return {**tensors, HEAD: tensors[embedding_of(family)][::-1].copy()}


def write(directory: Path, family: str, tensors: Tensors, num_shards: int | None = None, **changes: Any) -> Path:
    (directory / "config.json").write_text(json.dumps(CONFIGS[family] | changes))
    if num_shards is None:
        (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    else:
        write_sharded(directory, tensors, num_shards)
    return directory


def bits(checkpoint: Checkpoint, name: str) -> np.ndarray:
    return checkpoint.weights[name].bits


def test_two_different_matrices_are_both_used_with_a_warning(
    tmp_path: Path, family: str, num_shards: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = tensors_of(family)
    with caplog.at_level(logging.WARNING, "quire"):
        checkpoint = load_checkpoint(write(tmp_path, family, tensors, num_shards, tie_word_embeddings=True))
    assert not checkpoint.spec.is_head_tied
    np.testing.assert_array_equal(bits(checkpoint, "head.weight"), tensors[HEAD])
    np.testing.assert_array_equal(bits(checkpoint, "embed.weight"), tensors[embedding_of(family)])
    (record,) = caplog.records
    assert "differs from the embedding" in record.getMessage()
    assert read_spec(tmp_path) == checkpoint.spec


@pytest.mark.parametrize("kept", ["embedding", "head", "both"])
def test_one_matrix_serves_as_embedding_and_head(
    tmp_path: Path, family: str, num_shards: int | None, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = tensors_of(family)
    tensors[HEAD] = tensors[embedding_of(family)]
    shared = tensors[HEAD]
    if kept != "both":
        del tensors[HEAD if kept == "embedding" else embedding_of(family)]
    checkpoint = load_checkpoint(write(tmp_path, family, tensors, num_shards, tie_word_embeddings=True))
    assert checkpoint.spec.is_head_tied
    assert "head.weight" not in checkpoint.weights
    np.testing.assert_array_equal(bits(checkpoint, "embed.weight"), shared)
    assert not caplog.records


def test_a_difference_in_the_last_bit_is_a_difference(tmp_path: Path) -> None:
    tensors = tensors_of("llama")
    tensors[HEAD] = tensors[embedding_of("llama")].copy()
    tensors[HEAD][-1, -1] = np.nextafter(tensors[HEAD][-1, -1], np.float32(np.inf))
    assert not load_checkpoint(write(tmp_path, "llama", tensors, tie_word_embeddings=True)).spec.is_head_tied


def test_an_untied_model_keeps_two_matrices_even_if_they_are_equal(tmp_path: Path, family: str) -> None:
    tensors = tensors_of(family)
    tensors[HEAD] = tensors[embedding_of(family)]
    checkpoint = load_checkpoint(write(tmp_path, family, tensors, tie_word_embeddings=False))
    assert not checkpoint.spec.is_head_tied
    np.testing.assert_array_equal(bits(checkpoint, "head.weight"), tensors[HEAD])


def test_an_untied_model_without_its_head_is_refused_with_the_way_out(tmp_path: Path, family: str) -> None:
    tensors = tensors_of(family)
    del tensors[HEAD]
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight.*tie_word_embeddings to true"):
        load_checkpoint(write(tmp_path, family, tensors, tie_word_embeddings=False))


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_model_without_an_embedding_it_needs_is_refused(tmp_path: Path, family: str, is_tied: bool) -> None:
    tensors = tensors_of(family)
    del tensors[embedding_of(family)]
    if is_tied:
        del tensors[HEAD]
    with pytest.raises(CheckpointError, match=rf"missing: (model\.|transformer\.)?{embedding_of(family)}"):
        load_checkpoint(write(tmp_path, family, tensors, tie_word_embeddings=is_tied))


@pytest.mark.parametrize(("shape", "problem"), [((251, 55), "is .251, 55. instead of"), ((250, 56), "is .250, 56. instead of")])
def test_a_head_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, int], problem: str) -> None:
    tensors = {**tensors_of("llama"), HEAD: np.ones(shape, np.float32)}
    with pytest.raises(CheckpointError, match=problem):
        load_checkpoint(write(tmp_path, "llama", tensors, tie_word_embeddings=True))


def test_models_with_one_and_with_two_matrices_have_different_fingerprints(tmp_path: Path) -> None:
    prints = set()
    for name, is_tied in (("tied", True), ("untied", False)):
        (tmp_path / name).mkdir()
        tensors = tensors_of("llama")
        tensors[HEAD] = tensors[embedding_of("llama")]
        prints.add(load_checkpoint(write(tmp_path / name, "llama", tensors, tie_word_embeddings=is_tied)).weights.fingerprint)
    assert len(prints) == 2
