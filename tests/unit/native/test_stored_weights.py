"""Weights held as the checkpoint holds them: the core multiplies with the very values that the file stands for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quire.bench.harness import chunk_step
from quire.config import DType, KVFormat, WeightFormat
from quire.executors.native import NativeExecutor
from quire.executors.native_shape import panel_format, shape_of
from quire.executors.options import ExecutorOptions
from quire.executors.packing import Encoding, PackLayout, PanelFormat, matrix_formats, matrix_shapes, packed_bytes
from quire.executors.protocol import kv_layout
from quire.executors.reference import ReferenceExecutor
from quire.models.checkpoint import Checkpoint, load_checkpoint
from quire.models.config_file import parse_config
from quire.models.families import build_spec
from quire.models.gguf.kinds import KINDS
from quire.models.group_format import GroupBlocks, GroupFormat, Offset, ScaleType
from quire.models.quantized.stored import PackedTensor
from quire.models.weights import round_to_bfloat16
from support.gguf_quantized import KINDS as KIND_NAMES
from support.gguf_quantized import WIDE, quantized_file
from support.quantized import Method
from support.quantized_checkpoint import write_pair
from support.quantized_methods import METHODS

core: Any = pytest.importorskip("quire.native._core", reason="the native core is not compiled here")

_EDGES = np.array([0.0, -0.0, 6e-8, 6.1e-5, 0.3, -0.7, 65504.0, np.inf, np.nan], np.float16)
HELD = {number: kind for number, kind in KINDS.items() if kind.groups is not None}
SPEC = build_spec(parse_config(json.dumps(WIDE).encode()))
CENTERED = GroupFormat(4, 32, ScaleType.FLOAT16, Offset.CENTER)


def executor_of(kind: type[NativeExecutor | ReferenceExecutor], checkpoint: Checkpoint) -> Any:
    layout = kv_layout(checkpoint.spec, 32, KVFormat.FLOAT32)
    options = ExecutorOptions(layout=layout, num_blocks=2, dtype=DType.BFLOAT16, weights=WeightFormat.STORED, threads=2)
    return kind(checkpoint.spec, checkpoint.weights, options)


def dequantized(executor: Any, name: str, num_rows: int) -> np.ndarray:
    found: np.ndarray = executor._decoder.dequantized(name, 0, num_rows)
    return found


def formats_of(checkpoint: Checkpoint) -> dict[str, PanelFormat]:
    return matrix_formats(checkpoint.spec, checkpoint.weights, WeightFormat.STORED, PackLayout.VNNI)


def every_code(number: int) -> np.ndarray:
    """Returns rows of 256 elements in which every byte of a block takes every value, with every pair of edge scales."""
    kind = KINDS[number]
    pattern = (np.arange(256)[:, None] + 37 * (1 + 2 * np.arange(kind.block_bytes))).astype(np.uint8)
    names = [name for name in kind.block.names or () if kind.block[name].kind == "f"]
    parts = []
    for scales in np.array(np.meshgrid(*[_EDGES] * len(names))).reshape(len(names), -1).T if names else [[]]:
        blocks = pattern.copy().view(kind.block).reshape(-1)
        for name, scale in zip(names, scales, strict=True):
            blocks[name] = scale
        parts.append(blocks.view(np.uint8))
    return np.concatenate(parts).reshape(-1, 256 // kind.num_elements * kind.block_bytes)


@pytest.mark.parametrize("number", HELD, ids=lambda number: HELD[number].name)
def test_every_code_of_every_kind_is_multiplied_as_the_gguf_package_reads_it(number: int) -> None:
    kind, blocks = HELD[number], every_code(number)
    assert kind.groups is not None
    spec = replace(SPEC, vocab_size=len(blocks))
    form = panel_format(core, PanelFormat(Encoding.GROUPS, kind.groups))
    decoder = core.Decoder(shape_of(core, spec), core.PanelFormat(), {"embed.weight": form}, "", 2)
    decoder.set_blocks("embed.weight", number, blocks)
    found = decoder.dequantized("embed.weight", 0, len(blocks))
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(number)).reshape(found.shape)
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), is_nan)
    np.testing.assert_array_equal(found.view(np.uint32)[~is_nan], expected.view(np.uint32)[~is_nan])


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_matrices_of_a_file_are_held_exactly(tmp_path: Path, kind: str) -> None:
    """Rows of q and k lie in another order in the file. Q2_K has no group format: it is rounded."""
    checkpoint = load_checkpoint(quantized_file(tmp_path, kind))
    executor = executor_of(NativeExecutor, checkpoint)
    for name, (num_rows, _) in matrix_shapes(checkpoint.spec).items():
        expected = checkpoint.weights[name].to_float32()
        if kind == "Q2_K":
            expected = (round_to_bfloat16(expected).astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(dequantized(executor, name, num_rows), expected, err_msg=name)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_matrices_of_every_method_are_held_before_they_are_rounded(tmp_path: Path, method: Method) -> None:
    checkpoint = load_checkpoint(write_pair(tmp_path, method)[0])
    executor = executor_of(NativeExecutor, checkpoint)
    for name, tensor in checkpoint.weights.items():
        if isinstance(tensor, PackedTensor):
            found = dequantized(executor, name, tensor.shape[0])
            if tensor.group_format is None:
                rounded = (tensor.to_bfloat16().astype(np.uint32) << 16).view(np.float32)
                np.testing.assert_array_equal(found, rounded, err_msg=name)
            else:
                np.testing.assert_array_equal(found, tensor.weight.open().values(0, tensor.shape[0]), err_msg=name)


@pytest.mark.parametrize("kinds", [("Q4_K", "Q6_K", "Q5_K"), ("Q8_0", "Q4_1", "Q3_K", "Q5_0", "IQ4_XS"), ("MXFP4", "Q5_1")])
def test_logits_of_mixed_kinds_are_those_of_the_definition(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    checkpoint = load_checkpoint(quantized_file(tmp_path, *kinds))
    require_same_logits(checkpoint)


def require_same_logits(checkpoint: Checkpoint) -> None:
    logits = []
    for kind in (NativeExecutor, ReferenceExecutor):
        executor = executor_of(kind, checkpoint)
        executor.run(chunk_step([1, 5, 9, 2, 30, 7, 7], 0, executor.layout))
        logits.append(executor.head(np.arange(7, dtype=np.int32)))
    found, expected = logits
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", ["gptq-4", "awq", "w8a16", "w8a16-zeros", "mxfp4-pack-quantized", "mlx-3", "mlx-6"])
def test_logits_of_other_methods_are_those_of_the_definition(tmp_path: Path, name: str) -> None:
    (method,) = (each for each in METHODS if each.name == name)
    require_same_logits(load_checkpoint(write_pair(tmp_path, method)[0]))


def test_memory_is_what_the_formats_say(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(quantized_file(tmp_path, "Q4_K", "Q8_0", "Q6_K"))
    shapes, formats = matrix_shapes(checkpoint.spec), formats_of(checkpoint)
    assert len({each.groups for each in formats.values()}) == 3
    held = sum(packed_bytes(shape, formats[name]) for name, shape in shapes.items())
    assert executor_of(NativeExecutor, checkpoint).weight_bytes == held


def test_matrices_that_are_multiplied_together_are_floats_or_integers(tmp_path: Path) -> None:
    floats = ("blk.0.attn_v", "blk.0.ffn_up", "token_embd")
    checkpoint = load_checkpoint(quantized_file(tmp_path, "Q8_0", floats=floats))
    formats = formats_of(checkpoint)
    names = {name for name, each in formats.items() if each.encoding is Encoding.FLOAT32}
    together = {f"layers.0.{part}.weight" for part in ("attn.q", "attn.k", "attn.v", "ffn.gate", "ffn.up")}
    assert names == together | {"embed.weight"}
    executor = executor_of(NativeExecutor, checkpoint)
    np.testing.assert_array_equal(
        dequantized(executor, "layers.0.attn.q.weight", 256), checkpoint.weights["layers.0.attn.q.weight"].to_float32()
    )


def decoder_with(form: PanelFormat, **others: PanelFormat) -> Any:
    formats = {"embed.weight": panel_format(core, form)} | {name: panel_format(core, each) for name, each in others.items()}
    return core.Decoder(shape_of(core, replace(SPEC, vocab_size=70)), core.PanelFormat(), formats, "", 1)


def arrays(**changes: Any) -> list[Any]:
    given = {
        "codes": np.zeros((70, 256), np.uint8),
        "scales": np.zeros((70, 8), np.uint16),
        "minimums": None,
        "zero_points": None,
    }
    return list((given | changes).values())


def test_codes_that_do_not_fit_are_refused() -> None:
    decoder = decoder_with(PanelFormat(Encoding.GROUPS, CENTERED))
    decoder.set_groups("embed.weight", *arrays())
    refused = {
        "wrong shape": arrays(codes=np.zeros((70, 255), np.uint8)),
        "a row for each": arrays(scales=np.zeros((69, 8), np.uint16)),
        "a scale for every group": arrays(scales=np.zeros((70, 7), np.uint16)),
        "more bits": arrays(codes=np.full((70, 256), 16, np.uint8)),
        "minimums or zero points": arrays(minimums=np.zeros((70, 8), np.uint16)),
        "or zero points are missing, or": arrays(zero_points=np.zeros((70, 8), np.uint8)),
    }
    for words, given in refused.items():
        with pytest.raises(ValueError, match=words):
            decoder.set_groups("embed.weight", *given)
    for given in (
        arrays(codes=np.zeros((256, 70), np.uint8).T),
        arrays(scales=np.zeros((70, 8), np.float16)),
        arrays(codes=None),
    ):
        with pytest.raises(TypeError):
            decoder.set_groups("embed.weight", *given)
    with pytest.raises(ValueError, match="no matrix"):
        decoder.set_groups("final_norm.weight", *arrays())
    with pytest.raises(ValueError, match="no group format"):
        decoder_with(PanelFormat(Encoding.FLOAT32)).set_groups("embed.weight", *arrays())
    two_levels = decoder_with(PanelFormat(Encoding.GROUPS, GroupFormat(4, 32, ScaleType.TWO_LEVEL, Offset.MINIMUM)))
    with pytest.raises(ValueError, match="two levels"):
        two_levels.set_groups("embed.weight", *arrays())


def test_blocks_that_do_not_fit_are_refused() -> None:
    decoder = decoder_with(PanelFormat(Encoding.GROUPS, CENTERED))
    blocks = np.zeros((70, 8 * 18), np.uint8)
    decoder.set_blocks("embed.weight", 2, blocks)
    refused = {
        "another format": (8, np.zeros((70, 8 * 34), np.uint8)),
        "of this kind": (10, np.zeros((70, 84), np.uint8)),
        "no group format holds": (-1, blocks),
        "whole blocks": (2, blocks[:, :-1]),
        "side by side": (2, np.zeros((70, 16 * 18), np.uint8)[:, ::2]),
        "wrong shape": (2, blocks[:, :18]),
        "the wrong shape": (2, blocks[:69]),
        "blocks must be": (2, blocks.reshape(-1)),
        r"\[\.\.\., bytes\]": (2, blocks[:0]),
    }
    for words, given in refused.items():
        with pytest.raises(ValueError, match=words):
            decoder.set_blocks("embed.weight", *given)
    with pytest.raises(TypeError):
        decoder.set_blocks("embed.weight", 2, blocks.view(np.int8))


def test_rows_of_blocks_may_lie_in_any_order() -> None:
    rng = np.random.default_rng(0)
    form = PanelFormat(Encoding.GROUPS, GroupFormat(8, 32, ScaleType.FLOAT16, Offset.CENTER))
    blocks = rng.integers(0, 60, (72, 8 * 34), dtype=np.uint8)
    ordered = blocks.reshape(4, 9, 2, -1).swapaxes(1, 2)
    spec = replace(SPEC, vocab_size=72)
    found = []
    for rows in (ordered, ordered.reshape(72, -1), blocks[::-1][::-1].reshape(4, 9, 2, -1).swapaxes(1, 2)):
        decoder = core.Decoder(shape_of(core, spec), core.PanelFormat(), {"embed.weight": panel_format(core, form)}, "", 1)
        decoder.set_blocks("embed.weight", 8, rows)
        found.append(decoder.dequantized("embed.weight", 0, 72))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_formats_that_cannot_be_multiplied_together_are_refused() -> None:
    groups = PanelFormat(Encoding.GROUPS, CENTERED)
    with pytest.raises(ValueError, match="no matrix of this model"):
        decoder_with(groups, **{"layers.9.attn.q.weight": groups})
    with pytest.raises(ValueError, match="one encoding"):
        decoder_with(groups, **{"layers.0.attn.q.weight": groups})
    odd = replace(SPEC, hidden_size=40)
    with pytest.raises(ValueError, match="multiples of 32"):
        core.Decoder(shape_of(core, odd), core.PanelFormat(), {"embed.weight": panel_format(core, groups)}, "", 1)


def test_blocks_of_a_tensor_are_a_view_of_the_file(tmp_path: Path) -> None:
    tensor = load_checkpoint(quantized_file(tmp_path, "Q4_0")).weights["layers.0.attn.q.weight"]
    groups = tensor.to_groups()
    assert isinstance(groups, GroupBlocks)
    assert groups.blocks.base is not None
    assert groups.number == 2
