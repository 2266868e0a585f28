"""Damaged quantized checkpoints end in a typed error or in weights, and never take more memory than they justify."""

from __future__ import annotations

import copy
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import ModelError
from quire.models.checkpoint import load_checkpoint
from support.quantized import Arrays, Method
from support.quantized_checkpoint import config_of, packed_tensors
from support.quantized_methods import METHODS
from support.safetensors_writer import assemble, header_of

_NUM_MUTATIONS = 25
_NAMES = """gptq-4 gptq-3 gptq-sorted auto-round-awq awq w4a16-zeros w8a16 int-quantized float-quantized fp8-blocks fp8-tensor
mxfp4-pack-quantized quark mlx-3"""
CHOSEN = [method for method in METHODS if method.name in _NAMES.split()]
_ODD = (0, -1, 1, 2, 3, 5, 7, 128, 2**31, 2**63, 1.5, True, None, "", "x" * 300, [], {}, [0], [-1, 5], {"bits": 5}, float(2**53))
_WORDS = ("F32", "F16", "BF16", "I64", "I32", "U32", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64", "nonsense")


def _mutate_config(config: dict[str, Any], random_source: random.Random) -> None:
    """Replaces, drops or adds a field somewhere in the object."""
    target: Any = config
    while isinstance(target, dict) and target and random_source.random() < 0.6:
        inner = [value for value in target.values() if isinstance(value, dict) and value]
        if not inner:
            break
        target = random_source.choice(inner)
    name = random_source.choice([*target, "never_heard_of", "bits", "group_size"])
    if name in target and random_source.random() < 0.2:
        del target[name]
    else:
        target[name] = copy.deepcopy(random_source.choice(_ODD))


def _mutate_header(header: dict[str, Any], random_source: random.Random) -> None:
    """Changes a part's name, format or shape; its bytes keep their number wherever the change leaves that possible."""
    name = random_source.choice([name for name in header if ".layers." in name and "norm" not in name])
    row = header[name]
    kind = random_source.choice(("word", "shape", "swap", "rename", "drop"))
    if kind == "word":
        row["dtype"] = random_source.choice(_WORDS)
    elif kind == "shape":
        row["shape"] = random_source.choice(
            (row["shape"][::-1], [*row["shape"], 1], [int(np.prod(row["shape"]))], [0, *row["shape"]], [])
        )
    elif kind == "swap":
        other = random_source.choice(list(header))
        header[name], header[other] = header[other], row
    elif kind == "rename":
        header[random_source.choice((name + "x", name.replace("0", "1"), name.rpartition(".")[0] + ".weight"))] = header.pop(name)
    else:
        del header[name]


def _write(directory: Path, method: Method, packed: Arrays, seed: int) -> None:
    source = random.Random(f"{method.name} {seed}")
    header, config = header_of(packed), json.loads(json.dumps(method.config))
    mutate_config = source.random() < 0.5
    for _ in range(source.choice((1, 1, 2, 3))):
        if mutate_config:
            _mutate_config(config, source)
        else:
            _mutate_header(header, source)
    content = bytearray(b"".join(tensor.tobytes() for tensor in packed.values()))
    if source.random() < 0.3:
        for _ in range(50):
            content[source.randrange(len(content))] = source.randrange(256)
    (directory / "config.json").write_text(json.dumps(config_of(**{method.section: config})))
    (directory / "model.safetensors").write_bytes(assemble(header, bytes(content)))


def _read_all(directory: Path) -> ModelError | None:
    """Returns what loading and widening every weight ends in."""
    try:
        for tensor in load_checkpoint(directory).weights.values():
            assert tensor.to_float32().shape == tensor.shape
    except ModelError as error:
        return error
    return None


@pytest.mark.parametrize("method", CHOSEN, ids=lambda method: method.name)
def test_mutated_checkpoints_end_in_a_typed_error_or_in_weights(tmp_path: Path, method: Method) -> None:
    packed, _ = packed_tensors(method)
    refusals = []
    for seed in range(_NUM_MUTATIONS):
        _write(tmp_path, method, packed, seed)
        tracemalloc.start()
        refusal = _read_all(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 64 * (tmp_path / "model.safetensors").stat().st_size, f"seed {seed}"
        if refusal is not None:
            refusals.append(refusal)
    assert all(refusal.next_step and len(str(refusal)) < 3000 for refusal in refusals)
    assert len(refusals) >= _NUM_MUTATIONS // 3
