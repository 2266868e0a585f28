"""Own tiles in the compiled core: a row's bits are the same however its request was cut, beside whom, and after what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from quire.arrays import Float32Array
from quire.config import KVFormat
from quire.errors import ExecutorError
from quire.executors.native import NativeExecutor, available_isas
from quire.models.spec import ModelSpec
from quire.models.weights import SourceTensor, Weights
from support.configs import spec_of
from support.kv_steps import QUANTIZED, WITH_OWN_TILES, Chunk, kv_executor, kv_step, slots_of
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

NUM_TOKENS = 150
BLOCKS, OTHER_BLOCKS = (5, 2, 7), (1, 11, 3)
MODELS = {
    "qwen3": spec_of("qwen3", num_attention_heads=4, num_key_value_heads=2, head_dim=80, num_hidden_layers=2),
    "windows": spec_of("gemma3_text", num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1, sliding_window=40),
}
CUTS = {
    "one by one": range(NUM_TOKENS + 1),
    "inside tiles": (0, 20, 32, 150),
    "decode after two tiles": (0, 64, *range(65, NUM_TOKENS + 1)),
    "at borders": (0, 32, 96, 128, 150),
    "ends of tiles": (0, 31, 32, 63, 64, 127, 128, 150),
}


@pytest.fixture(params=available_isas(), autouse=True)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QUIRE_ISA", request.param)
    return str(request.param)


def computed(executor: NativeExecutor, cuts: Sequence[int], chunk: Chunk) -> Float32Array:
    """Returns logits of all rows of a request that is computed in chunks from one cut to the next."""
    parts = [executor.run(kv_step(executor, replace(chunk, start=start, stop=stop))) for start, stop in pairwise(cuts)]
    return np.concatenate(parts)


def held(executor: NativeExecutor, blocks: Sequence[int], num_tokens: int) -> bytes:
    """Returns what the layers hold of a request."""
    slots = slots_of(blocks, 0, num_tokens)
    return b"".join(part.tobytes() for layer in range(executor.spec.num_layers) for part in executor.read_kv(layer, slots))


@pytest.mark.parametrize("exact_key_layers", [(), (1,)], ids=["", "exact keys in a layer"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kv_format", QUANTIZED, ids=lambda kv_format: kv_format.value)
def test_chunks_of_any_kind_have_the_bits_of_one(kv_format: KVFormat, model: str, exact_key_layers: tuple[int, ...]) -> None:
    whole = kv_executor(MODELS[model], kv_format, exact_key_layers=exact_key_layers)
    expected = computed(whole, (0, NUM_TOKENS), Chunk(0, NUM_TOKENS, BLOCKS, own_tile=2))
    assert np.isfinite(expected).all()
    executor = kv_executor(MODELS[model], kv_format, exact_key_layers=exact_key_layers, threads=2)
    for cuts in CUTS.values():
        logits = computed(executor, cuts, Chunk(0, 0, OTHER_BLOCKS, own_tile=1))
        assert logits.tobytes() == expected.tobytes()
        assert held(executor, OTHER_BLOCKS, NUM_TOKENS) == held(whole, BLOCKS, NUM_TOKENS)


@pytest.mark.parametrize("kv_format", QUANTIZED, ids=lambda kv_format: kv_format.value)
def test_requests_of_one_step_do_not_meet_in_their_tiles(kv_format: KVFormat) -> None:
    executor = kv_executor(MODELS["qwen3"], kv_format, threads=2)
    texts = [Chunk(0, 100, (0, 1), own_tile=3, text=1), Chunk(32, 64, (2,), text=2), Chunk(40, 50, (3,), own_tile=1, text=3)]
    expected = []
    for chunk in texts:
        computed(executor, (0, chunk.stop), replace(chunk, own_tile=2))
        alone = executor.run(kv_step(executor, replace(chunk, start=chunk.start // 32 * 32, own_tile=2)))
        expected.append(alone[chunk.start % 32 :])
    executor.run(kv_step(executor, replace(texts[2], start=32, stop=40)))
    together = executor.run(kv_step(executor, *texts))
    assert together.tobytes() == np.concatenate(expected).tobytes()


@pytest.mark.parametrize("kv_format", QUANTIZED, ids=lambda kv_format: kv_format.value)
def test_a_copied_block_and_own_tile_go_on_as_the_request_itself(kv_format: KVFormat) -> None:
    executor = kv_executor(MODELS["qwen3"], kv_format)
    expected = computed(executor, (0, 50, 64, 100), Chunk(0, 0, (0, 1)))[50:]
    computed(executor, (0, 50), Chunk(0, 0, (2,), own_tile=1))
    executor.copy_block(2, 3)
    if executor.layout.has_own_tiles:
        executor.copy_own_tile(1, 3)
    computed(executor, (0, 50), Chunk(0, 0, (2,), own_tile=1, text=5))
    assert computed(executor, (50, 64, 100), Chunk(0, 0, (3, 4), own_tile=3)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("kv_format", QUANTIZED, ids=lambda kv_format: kv_format.value)
def test_tokens_of_an_open_tile_can_be_written_again(kv_format: KVFormat) -> None:
    """A step that failed runs again, and drafts that were refused give way to other tokens."""
    executor = kv_executor(MODELS["qwen3"], kv_format)
    expected = computed(executor, (0, 45, 64, 100), Chunk(0, 0, BLOCKS))[45:]
    computed(executor, (0, 45), Chunk(0, 0, OTHER_BLOCKS, own_tile=1))
    executor.run(kv_step(executor, Chunk(45, 64, OTHER_BLOCKS, own_tile=1, text=9)))
    executor.run(kv_step(executor, Chunk(45, 60, OTHER_BLOCKS, own_tile=1)))
    assert computed(executor, (45, 64, 100), Chunk(0, 0, OTHER_BLOCKS, own_tile=1)).tobytes() == expected.tobytes()


def changed(spec: ModelSpec, name: str, index: int | slice, value: float) -> Weights:
    weights = random_weights(spec)
    values = weights[name].to_float32().copy()
    values[index] = value
    return Weights({**weights, name: replace(weights[name], bits=values)}, weights.fingerprint)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["NaN", "infinity"])
@pytest.mark.parametrize("kv_format", QUANTIZED, ids=lambda kv_format: kv_format.value)
def test_keys_that_are_not_finite_fail_their_step_and_leave_the_neighbours_as_they_were(
    kv_format: KVFormat, value: float
) -> None:
    spec = MODELS["qwen3"]
    good, bad = Chunk(0, 70, BLOCKS, text=1), Chunk(0, 40, OTHER_BLOCKS, own_tile=1, text=2)
    fine = kv_executor(spec, kv_format)
    only_in_bad = int(next(iter(set(kv_step(fine, bad).token_ids.tolist()) - set(kv_step(fine, good).token_ids.tolist()))))
    executor = kv_executor(spec, kv_format, weights=changed(spec, "embed.weight", only_in_bad, value))
    expected = fine.run(kv_step(fine, good))[:, only_in_bad + 1 :]
    with pytest.raises(ExecutorError, match="keys or values are not finite"):
        executor.run(kv_step(executor, good, bad))
    with pytest.raises(ExecutorError, match="keys or values are not finite"):
        executor.run(kv_step(executor, bad))
    assert executor.run(kv_step(executor, good))[:, only_in_bad + 1 :].tobytes() == expected.tobytes()
    if executor.layout.has_own_tiles:
        assert np.isnan(executor.read_kv(0, slots_of(OTHER_BLOCKS, 0, 32))[0]).all()


@pytest.mark.parametrize("kv_format", WITH_OWN_TILES, ids=lambda kv_format: kv_format.value)
def test_values_too_far_apart_for_a_scale_fail_when_their_tile_is_full(kv_format: KVFormat) -> None:
    spec = spec_of("qwen2", num_attention_heads=4, num_key_value_heads=1, hidden_size=64, num_hidden_layers=1)
    weights = changed(spec, "layers.0.attn.v.bias", 0, 3e38)
    far: SourceTensor = weights["layers.0.attn.v.bias"]
    far.bits[1] = -3e38
    executor = kv_executor(spec, kv_format, weights=weights)
    executor.run(kv_step(executor, Chunk(0, 31, BLOCKS)))
    with pytest.raises(ExecutorError, match="keys or values are not finite"):
        executor.run(kv_step(executor, Chunk(31, 32, BLOCKS)))


@pytest.mark.parametrize("kv_format", WITH_OWN_TILES, ids=lambda kv_format: kv_format.value)
def test_a_tile_that_is_not_full_is_not_in_its_block(kv_format: KVFormat) -> None:
    executor = kv_executor(MODELS["qwen3"], kv_format)
    computed(executor, (0, 40), Chunk(0, 0, BLOCKS))
    for found in executor.read_kv(1, slots_of(BLOCKS, 0, 40)):
        assert np.isfinite(found[:32]).all()
        assert np.isnan(found[32:]).all()
    with pytest.raises(ExecutorError, match="not full"):
        executor.export_block(BLOCKS[0])
    computed(executor, (40, 64), Chunk(0, 0, BLOCKS))
    assert np.isfinite(executor.read_kv(1, slots_of(BLOCKS, 0, 64))).all()
    computed(executor, (32, 40), Chunk(0, 0, BLOCKS))
    assert np.isnan(executor.read_kv(1, slots_of(BLOCKS, 32, 40))).all()


@pytest.mark.parametrize("exact_key_layers", [(), (1,)], ids=["", "exact keys in a layer"])
@pytest.mark.parametrize("kv_format", QUANTIZED, ids=lambda kv_format: kv_format.value)
def test_an_exported_block_is_the_same_elsewhere(kv_format: KVFormat, exact_key_layers: tuple[int, ...]) -> None:
    source, target = (kv_executor(MODELS["qwen3"], kv_format, exact_key_layers=exact_key_layers) for _ in range(2))
    expected = computed(source, (0, 100), Chunk(0, 0, BLOCKS))
    target.import_block(OTHER_BLOCKS[0], source.export_block(BLOCKS[0]))
    assert target.export_block(OTHER_BLOCKS[0]) == source.export_block(BLOCKS[0])
    assert computed(target, (64, 100), Chunk(0, 0, OTHER_BLOCKS)).tobytes() == expected[64:].tobytes()
    assert held(target, OTHER_BLOCKS, 96) == held(source, BLOCKS, 96)
    other = kv_executor(MODELS["qwen3"], kv_format, exact_key_layers=(0,))
    with pytest.raises(ExecutorError, match="another version, order or shape"):
        other.import_block(0, source.export_block(BLOCKS[0]))


@pytest.mark.parametrize(
    ("chunk", "own_tiles", "message"),
    [
        (Chunk(0, 40, BLOCKS), None, "does not say which own tiles"),
        (Chunk(0, 40, BLOCKS), [4], "no such own tile"),
        (Chunk(0, 40, BLOCKS), [-1], "no such own tile"),
        (Chunk(0, 40, BLOCKS), [0, 1], "own_tiles has 2 elements"),
        (Chunk(20, 33, BLOCKS), [0], "begin inside a tile"),
        (Chunk(31, 64, BLOCKS), [0], "begin inside a tile"),
    ],
    ids=["missing", "too large", "negative", "too many", "goes beyond its tile", "from its last token on"],
)
def test_a_step_that_breaks_the_rules_of_own_tiles_is_refused(chunk: Chunk, own_tiles: list[int] | None, message: str) -> None:
    executor = kv_executor(MODELS["qwen3"], KVFormat.INT4)
    batch = replace(kv_step(executor, chunk), own_tiles=None if own_tiles is None else np.array(own_tiles, np.int32))
    with pytest.raises(ExecutorError, match=message):
        executor.run(batch)


def test_two_requests_with_one_own_tile_are_refused() -> None:
    executor = kv_executor(MODELS["qwen3"], KVFormat.INT4)
    with pytest.raises(ExecutorError, match="same own tile"):
        executor.run(kv_step(executor, Chunk(0, 40, BLOCKS, own_tile=2), Chunk(0, 3, OTHER_BLOCKS, own_tile=2)))


@pytest.mark.parametrize("kv_format", [KVFormat.BFLOAT16, KVFormat.INT8], ids=lambda kv_format: kv_format.value)
def test_own_tiles_are_refused_where_the_format_has_none(kv_format: KVFormat) -> None:
    executor = kv_executor(MODELS["qwen3"], kv_format)
    with pytest.raises(ExecutorError, match="has none"):
        executor.run(replace(kv_step(executor, Chunk(0, 40, BLOCKS)), own_tiles=np.zeros(1, np.int32)))
    with pytest.raises(ExecutorError, match="no such own tile"):
        executor.copy_own_tile(0, 0)


def test_an_own_tile_that_does_not_exist_is_not_copied() -> None:
    executor = kv_executor(MODELS["qwen3"], KVFormat.INT8_INT4)
    for source, target in ((4, 0), (0, 4), (-1, 0)):
        with pytest.raises(ExecutorError, match="no such own tile"):
            executor.copy_own_tile(source, target)


@pytest.mark.parametrize("kv_format", QUANTIZED, ids=lambda kv_format: kv_format.value)
def test_memory_that_contradicts_the_format_is_refused(kv_format: KVFormat) -> None:
    odd = spec_of("qwen3", num_attention_heads=4, num_key_value_heads=2, head_dim=12)
    with pytest.raises(ExecutorError, match="multiple of 8"):
        kv_executor(odd, kv_format)
    with pytest.raises(ExecutorError, match="no such layer"):
        kv_executor(MODELS["qwen3"], kv_format, exact_key_layers=(2,))
    with pytest.raises(ExecutorError, match="own tiles"):
        kv_executor(MODELS["qwen3"], kv_format, num_own_tiles=0 if kv_format.has_own_tiles else 1)


def test_numerics_name_the_format_and_the_exact_layers() -> None:
    assert kv_executor(MODELS["qwen3"], KVFormat.INT8).numerics.endswith("kv=int8")
    assert kv_executor(MODELS["qwen3"], KVFormat.INT4, exact_key_layers=(1,)).numerics.endswith("kv=int4 keys 1 bfloat16")
