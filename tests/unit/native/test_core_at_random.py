"""Calls of the core with arguments at random: whatever they are, the process lives on."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.executors.native_shape import shape_of
from quire.sample.buckets import LEAST
from support.core_world import (
    BLOCK_SIZE,
    BYTES_PER_BLOCK,
    NUM_BLOCKS,
    REFUSALS,
    SPEC,
    decoder_of,
    floats,
    ints,
    misaligned,
    step_of,
)

core: Any = pytest.importorskip("quire.native._core", reason="the native core is not compiled here")
TESTS = Path(__file__).parents[2]
NAN, INF = float("nan"), float("inf")


def junk(generator: random.Random) -> Any:
    """Returns an argument that is nearly always wrong; sizes are small or absurd, so that nothing large is ever filled."""
    numbers = [-(2**63), -(2**31), -1, 0, 1, 2, 31, 33, 2**40, 2**51, 2**62, 2**63 - 1, 2**63, 2**70]
    shape = generator.choice(
        [(), (0,), (1,), (2,), (3,), (40,), (2, 2), (2, 0), (0, 2), (40, 2), (1, 4, 16), (2, SPEC.vocab_size)]
    )
    dtype = generator.choice(
        [np.int32, np.float32, np.float64, np.uint16, np.int64, np.uint8, np.dtype(">i4"), np.dtype(">f4"), object]
    )
    array = np.zeros(shape, dtype)
    if dtype is not object and array.size:
        array[...] = np.array(generator.choice([0, 1, 3, 127]), dtype)
        array = generator.choice([array, array, array[..., ::-1] if shape else array, misaligned(array)])
        array.flags.writeable = generator.random() < 0.8
    names = [
        "",
        "embed.weight",
        "head.weight",
        "layers.0.attn.q.weight",
        "layers.0.attn.q.bias",
        "layers.-1.ffn.up",
        "layers.9e9",
        "final_norm.weight",
        "\0\xe9",
    ]
    others = [
        None,
        True,
        0.5,
        NAN,
        INF,
        -INF,
        1e308,
        b"x",
        [],
        [1, 2],
        {},
        object(),
        core.KVFormat.BF16,
        core.PanelFormat(core.Encoding.GROUPS, core.GroupFormat(4)),
        core,
    ]
    return generator.choice([generator.choice(numbers), array, array, generator.choice(names), generator.choice(others)])


def good_calls(decoder: Any) -> dict[str, tuple[Callable[..., object], list[Any]]]:
    f32, row = core.PanelFormat(core.Encoding.F32), floats(100)
    drawing, sampler = core.DrawMethod(1.0, None, 0.9, LEAST), core.BatchSampler("", 2)
    choice = core.RowChoice(drawing, 0.5, 3)
    groups, codes, scales = core.GroupMatrix("", [core.GroupFormat(4)], 40), np.zeros((64, 32), np.uint8), np.zeros(64, np.uint16)
    heads = (1, SPEC.num_kv_heads, SPEC.head_dim)
    hidden = floats(SPEC.num_heads * SPEC.head_dim, SPEC.hidden_size)
    return {
        "Decoder": (core.Decoder, [shape_of(core, SPEC), f32, {"layers.0.attn.q.weight": f32}, "", 1]),
        "set_matrix": (decoder.set_matrix, ["layers.0.attn.q.weight", hidden]),
        "dequantized": (decoder.dequantized, ["layers.0.attn.q.weight", 1, 2]),
        "set_vector": (decoder.set_vector, ["final_norm.weight", floats(SPEC.hidden_size)]),
        "packed_checksums": (decoder.packed_checksums, [0]),
        "packed_bytes": (decoder.packed_bytes, [0]),
        "read_packed": (decoder.read_packed, [0, -1, 0, decoder.packed_checksums(0)]),
        "allocate_kv": (decoder.allocate_kv, [NUM_BLOCKS, BLOCK_SIZE, core.KVFormat.F32, BYTES_PER_BLOCK]),
        "run": (decoder.run, list(step_of().values())),
        "head": (decoder.head, [ints(0), floats(1, SPEC.vocab_size)]),
        "argmax": (decoder.argmax, [ints(0), ints(0), ints(0)]),
        "read_kv": (decoder.read_kv, [0, ints(0), floats(*heads), floats(*heads)]),
        "copy_block": (decoder.copy_block, [0, 1]),
        "export_block": (decoder.export_block, [0]),
        "import_block": (decoder.import_block, [0, decoder.export_block(0)]),
        "multiply": (core.multiply, ["", f32, floats(3, 8), floats(2, 8), floats(2, 3)]),
        "packed_values": (core.packed_values, ["", f32, floats(3, 8), floats(3, 8)]),
        "GroupFormat": (core.GroupFormat, [4, 32, core.ScaleType.F16, core.Offset.MINIMUM]),
        "PanelFormat": (core.PanelFormat, [core.Encoding.GROUPS, core.GroupFormat(8)]),
        "GroupMatrix": (core.GroupMatrix, ["", [core.GroupFormat(4)], 40]),
        "set_section": (groups.set_section, [0, 1, codes, *[scales] * 2, codes[0], codes.view(np.int8), codes[:8].copy()]),
        "group product": (groups.multiply, [floats(2, 40), floats(2, 64)]),
        "group values": (groups.values, [floats(64, 40)]),
        "activate": (core.activate, ["", core.Activation.SILU, row.copy()]),
        "softcap": (core.softcap, ["", row.copy(), 1.0]),
        "has_amx": (core.has_amx, [""]),
        "uniform": (core.uniform, [1, 2]),
        "DrawMethod": (core.DrawMethod, [1.0, None, 0.9, LEAST]),
        "RowChoice": (core.RowChoice, [drawing, 0.5, 3]),
        "allow": (choice.allow, [np.ones(4, np.uint32)]),
        "change": (choice.change, [np.arange(3), np.zeros(3)]),
        "BatchSampler": (core.BatchSampler, ["", 2]),
        "BatchSampler of a decoder": (core.BatchSampler, [decoder]),
        "sample": (sampler.sample, [row[None], [choice]]),
        "score": (sampler.score, [row[None], [3], 3]),
    }


def call_at_random(seed: int, num_calls: int) -> int:
    """Returns how many calls were refused; lets any other exception through."""
    generator, decoder = random.Random(seed), decoder_of()
    num_refused = 0
    for _ in range(num_calls):
        function, arguments = generator.choice(list(good_calls(decoder).values()))
        for place in generator.sample(range(len(arguments)), min(len(arguments), generator.choice([1, 1, 1, 2]))):
            arguments[place] = junk(generator)
        try:
            function(*arguments)
        except (*REFUSALS, MemoryError):
            num_refused += 1
    return num_refused


@pytest.mark.parametrize("seed", [1, 2])
def test_arguments_at_random_never_end_the_process(seed: int) -> None:
    script = f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(Path(__file__).parent)!r}]\n"
    script += f"import test_core_at_random; print(test_core_at_random.call_at_random({seed}, 3000))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) > 1500
