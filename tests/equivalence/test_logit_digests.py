"""Logits keep their bits from one version of the code to the next: each set of them equals a digest stored in a file.

Per model, weight format and instruction set the file holds the SHA-256 of the float32 logits of fixed prompts. A change that
means to change bits raises NUMERICS_VERSION and writes the file again, on a machine that runs every instruction set:

    PYTHONPATH=src:tests .venv/bin/python tests/equivalence/test_logit_digests.py
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from quire.config import DType, KVFormat, Quantize
from quire.executors.native import NUMERICS_VERSION, NativeExecutor, available_isas
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import Executor, Float32Array, Int32Array, StepBatch, kv_layout
from quire.models import bundled
from quire.models.checkpoint import load_checkpoint
from quire.models.spec import ModelSpec
from quire.models.weights import Weights
from support.configs import CONFIGS, spec_of
from support.fixed_weights import fixed_weights

FILE = Path(__file__).with_name("logit_digests.json")
ISAS = ("generic", "avx2", "avx512", "avx512_bf16", "amx_bf16")
FORMATS = {
    "float32": (DType.FLOAT32, Quantize.NONE),
    "bfloat16": (DType.BFLOAT16, Quantize.NONE),
    "int8": (DType.FLOAT32, Quantize.INT8),
    "int4": (DType.BFLOAT16, Quantize.INT4),
}
BLOCK_SIZE, NUM_BLOCKS = 32, 24
PROMPT_LENGTH, NEIGHBOR_LENGTH, NUM_DECODED, LONG_LENGTH = 45, 33, 3, 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model to compute, and its prompt's length: one of 600 tokens takes attention over more than one split of keys."""

    make: Callable[[], tuple[ModelSpec, Weights]]
    length: int = PROMPT_LENGTH


def made(family: str, **changes: int) -> Callable[[], tuple[ModelSpec, Weights]]:
    def make() -> tuple[ModelSpec, Weights]:
        spec = spec_of(family, **changes)
        return spec, fixed_weights(spec)

    return make


def read_bundled() -> tuple[ModelSpec, Weights]:
    checkpoint = load_checkpoint(bundled.directory())
    return checkpoint.spec, checkpoint.weights


MODELS = {
    **{family: Model(make=made(family)) for family in CONFIGS},
    "long-llama": Model(make=made("llama", max_position_embeddings=1024, num_hidden_layers=2), length=LONG_LENGTH),
    "wide-llama": Model(
        make=made(
            "llama", hidden_size=448, intermediate_size=576, num_hidden_layers=2, num_attention_heads=7, num_key_value_heads=1
        )
    ),
    "bundled": Model(make=read_bundled),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("model", MODELS)
def test_logits_equal_their_stored_digests(model: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if isa not in available_isas():
        pytest.skip(f"this machine does not run {isa}")
    monkeypatch.setenv("QUIRE_ISA", isa)
    stored = json.loads(FILE.read_text())
    assert digests_of(model) == stored["digests"][model][isa]


def test_the_stored_digests_are_those_of_this_numerics_version() -> None:
    stored = json.loads(FILE.read_text())
    assert stored["numerics_version"] == NUMERICS_VERSION
    assert stored["digests"].keys() == MODELS.keys()
    assert all(tuple(of_isas) == ISAS for of_isas in stored["digests"].values())


def digests_of(model: str) -> dict[str, str]:
    """Returns the digest of a model's logits per weight format, on the instruction set that QUIRE_ISA names."""
    spec, weights = MODELS[model].make()
    found = {}
    for name, (dtype, quantize) in FORMATS.items():
        executor = NativeExecutor(
            spec,
            weights,
            ExecutorOptions(
                layout=kv_layout(spec, BLOCK_SIZE, KVFormat(dtype.value)), num_blocks=NUM_BLOCKS, dtype=dtype, quantize=quantize
            ),
        )
        logits = logits_of(executor, MODELS[model].length)
        assert np.isfinite(logits).all()
        found[name] = hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest()
    return found


def logits_of(executor: Executor, length: int) -> Float32Array:
    """Returns every row's logits: of a prompt beside a shorter one in one step, then of tokens that continue both."""
    lengths = [(length, NEIGHBOR_LENGTH)] + [(1, 1)] * NUM_DECODED
    starts = [(0, 0)] + [(length + step, NEIGHBOR_LENGTH + step) for step in range(NUM_DECODED)]
    return np.concatenate([executor.run(step_of(executor, *each)) for each in zip(starts, lengths, strict=True)])


def step_of(executor: Executor, starts: tuple[int, ...], lengths: tuple[int, ...]) -> StepBatch:
    """Returns a step of one chunk per request, the first from block 0 on and the other in the last blocks, all rows wanted."""
    positions = np.concatenate([np.arange(start, start + num) for start, num in zip(starts, lengths, strict=True)])
    of_request = np.repeat(np.arange(len(lengths)), lengths)
    tables = np.array([np.arange(NUM_BLOCKS), (np.arange(NUM_BLOCKS) - 2) % NUM_BLOCKS])[:, : NUM_BLOCKS - 2]
    tokens = (positions * positions * 7 + positions * 3 + of_request) % executor.spec.vocab_size
    slots = tables[of_request, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
    return StepBatch(
        token_ids=int32(tokens),
        positions=int32(positions),
        query_start=int32(np.cumsum([0, *lengths])),
        context_lens=int32(np.add(starts, lengths)),
        block_tables=int32(tables),
        slot_mapping=int32(slots),
        sample_rows=int32(np.arange(len(positions))),
    )


def int32(values: np.ndarray) -> Int32Array:
    return np.ascontiguousarray(values, np.int32)


def write_file() -> None:
    missing = set(ISAS) - set(available_isas())
    if missing:
        raise SystemExit(f"this machine does not run {', '.join(sorted(missing))}: the file needs every instruction set")
    digests: dict[str, dict[str, dict[str, str]]] = {}
    for model in MODELS:
        digests[model] = {}
        for isa in ISAS:
            os.environ["QUIRE_ISA"] = isa
            digests[model][isa] = digests_of(model)
    FILE.write_text(json.dumps({"numerics_version": NUMERICS_VERSION, "digests": digests}, indent=2) + "\n")


if __name__ == "__main__":
    write_file()
