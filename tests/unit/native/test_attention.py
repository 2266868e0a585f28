"""Attention by every road: alone or beside others, whole or in splits, a prefix shared or not, on one thread or two.

A split is 512 keys. The prefix is two splits and a bit; requests go on from it with text of their own, some of them beyond
the third split. Whatever the road, the bits of a row are those of its request computed whole, alone, on one thread. Every
request has an own tile, where the format has them, and no chunk that begins inside a tile goes beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from quire.config import DType, ExecutorKind, KVFormat
from quire.errors import ExecutorError
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import Executor, Float32Array, Int32Array, StepBatch, kv_layout
from quire.executors.reference import ReferenceExecutor
from quire.models.spec import ModelSpec
from quire.models.weights import Weights
from support.configs import spec_of
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

BLOCK = 32
NUM_SHARED = 34 * BLOCK
OWN = (1, 40, 97, 460, 500)  # tokens of each request after the prefix; the last two reach into the fourth split
BLOCKS_OWN = 20
MAX_CONTEXT = NUM_SHARED + BLOCKS_OWN * BLOCK
MODELS = {
    "group-1": {"num_key_value_heads": 8, "head_dim": 96},
    "group-2": {"num_key_value_heads": 4, "head_dim": 128},
    "group-4": {"num_key_value_heads": 2, "head_dim": 80},
    "group-8": {"num_key_value_heads": 1, "head_dim": 64},
    "group-8-of-16": {"num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 24},
    "narrow": {"num_key_value_heads": 4, "head_dim": 32},
    "wide": {"num_key_value_heads": 4, "head_dim": 256},
}


def make_spec(name: str) -> ModelSpec:
    shape = {"num_attention_heads": 8, "num_hidden_layers": 2, "max_position_embeddings": MAX_CONTEXT}
    if name == "windows":
        changes = {"num_key_value_heads": 2, "head_dim": 64, "sliding_window": 700, "sliding_window_pattern": 2}
        return spec_of("gemma3_text", **{**shape, **changes})
    if name.startswith("softcap"):
        group = "group-8" if name == "softcap on tiles" else "group-4"
        return replace(spec_of("qwen3", **{**shape, **MODELS[group]}), attention_softcap=5.0)
    return spec_of("qwen3", **{**shape, **MODELS[name]})


def make_executor(
    spec: ModelSpec,
    threads: int,
    kv: KVFormat = KVFormat.BFLOAT16,
    dtype: DType = DType.FLOAT32,
    weights: Weights | None = None,
) -> Executor:
    return NativeExecutor(
        spec,
        weights or random_weights(spec),
        ExecutorOptions(
            layout=kv_layout(spec, BLOCK, kv),
            num_blocks=NUM_SHARED // BLOCK + (len(OWN) + 2) * BLOCKS_OWN + NUM_SHARED // BLOCK,
            num_own_tiles=len(OWN) if kv.has_own_tiles else 0,
            dtype=dtype,
            threads=threads,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The tokens of a request, its block table and its own tile; [start, end) of it is computed in a step."""

    token_ids: Int32Array
    blocks: Int32Array
    own_tile: int = 0

    def whole_elsewhere(self) -> Text:
        """Returns the same tokens in other blocks, so that nothing of the shared prefix is read."""
        first = NUM_SHARED // BLOCK + len(OWN) * BLOCKS_OWN
        return replace(self, blocks=np.arange(first, first + len(self.blocks), dtype=np.int32))


def texts(vocab_size: int) -> list[Text]:
    generator = np.random.default_rng(3)
    prefix = generator.integers(0, vocab_size, NUM_SHARED)
    shared = np.arange(NUM_SHARED // BLOCK)
    found = []
    for i, num_own in enumerate(OWN):
        own = np.arange(BLOCKS_OWN) + len(shared) + i * BLOCKS_OWN
        tokens = np.concatenate([prefix, generator.integers(0, vocab_size, num_own)])
        blocks = np.concatenate([shared, own]).astype(np.int32)
        found.append(Text(token_ids=tokens.astype(np.int32), blocks=blocks, own_tile=i))
    return found


def run(executor: Executor, *parts: tuple[Text, int, int]) -> Float32Array:
    """Returns logits of tokens [start, end) of each text, all computed in one step."""
    positions = [np.arange(start, end, dtype=np.int32) for _, start, end in parts]
    lengths = np.array([0] + [len(each) for each in positions])
    slots = [text.blocks[at // BLOCK] * BLOCK + at % BLOCK for (text, _, _), at in zip(parts, positions, strict=True)]
    batch = StepBatch(
        token_ids=np.concatenate([text.token_ids[start:end] for text, start, end in parts]),
        positions=np.concatenate(positions),
        query_start=np.cumsum(lengths, dtype=np.int32),
        context_lens=np.array([end for _, _, end in parts], np.int32),
        block_tables=np.stack([text.blocks for text, _, _ in parts]),
        slot_mapping=np.concatenate(slots),
        sample_rows=np.arange(lengths.sum(), dtype=np.int32),
        own_tiles=np.array([text.own_tile for text, _, _ in parts], np.int32) if executor.layout.has_own_tiles else None,
    )
    return executor.run(batch)


def run_not_finite(executor: Executor, part: tuple[Text, int, int]) -> Float32Array | None:
    """Writes keys and values that are not numbers; a quantized format fails such a step, so that it has no logits."""
    if not executor.layout.format.is_quantized:
        return run(executor, part)
    with pytest.raises(ExecutorError, match="keys or values are not finite"):
        run(executor, part)
    return None


def last_rows(executor: Executor, text: Text, count: int) -> Float32Array:
    """Returns logits of the last tokens of a text that is computed whole, in blocks of its own."""
    return run(executor, (text.whole_elsewhere(), 0, len(text.token_ids)))[-count:]


def rows_beside_others(executor: Executor, requests: list[Text], count: int) -> list[Float32Array]:
    """Returns logits of the last `count` tokens of every request, all computed in one step after their contexts."""
    run(executor, (requests[0], 0, NUM_SHARED))
    for text in requests:
        if len(text.token_ids) - count > NUM_SHARED:
            run(executor, (text, NUM_SHARED, len(text.token_ids) - count))
    ends = [len(text.token_ids) for text in requests]
    together = run(executor, *((text, end - count, end) for text, end in zip(requests, ends, strict=True)))
    for index, (text, end) in enumerate(zip(requests, ends, strict=True)):
        alone = run(executor, (text, end - count, end))
        assert alone.tobytes() == together[index * count : (index + 1) * count].tobytes(), f"request {index} alone"
    return list(together.reshape(len(requests), count, -1))


@pytest.mark.parametrize("kv", ExecutorKind.NATIVE.kv_formats, ids=lambda kv: kv.value)
@pytest.mark.parametrize("name", [*MODELS, "windows", "softcap", "softcap on tiles"])
def test_requests_that_share_a_prefix_get_the_bits_of_each_alone(name: str, kv: KVFormat) -> None:
    spec = make_spec(name)
    requests = texts(spec.vocab_size)
    oracle = make_executor(spec, 1, kv)
    expected = [last_rows(oracle, text, 1) for text in requests]
    for threads in (1, 2):
        found = rows_beside_others(make_executor(spec, threads, kv), requests, 1)
        assert [rows.tobytes() for rows in found] == [rows.tobytes() for rows in expected], f"{threads} threads"


@pytest.mark.parametrize("name", ["group-1", "group-2", "windows", "softcap", "softcap on tiles"])
@pytest.mark.parametrize("isa", available_isas())
def test_logits_of_a_long_text_are_those_of_the_reference(name: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """K, V and, on matrix tiles, softmax weights are rounded to steps of 2^-8: sums in another order may fall to another side."""
    monkeypatch.setenv("QUIRE_ISA", isa)
    spec = make_spec(name)
    (text, *_) = texts(spec.vocab_size)
    length = len(text.token_ids)
    layout = kv_layout(spec, BLOCK, KVFormat.BFLOAT16)
    reference = ReferenceExecutor(
        spec,
        random_weights(spec),
        ExecutorOptions(layout=layout, num_blocks=NUM_SHARED // BLOCK + BLOCKS_OWN, dtype=DType.FLOAT32),
    )
    expected = run(reference, (text, 0, length))
    found = run(make_executor(spec, 2), (text, 0, length))
    assert np.abs(found - expected).max() < 2**-8 * np.abs(expected).max()


# Not the formats with own tiles: a border of a split is one of a tile, and no such chunk crosses it.
@pytest.mark.parametrize("kv", [kv for kv in KVFormat if not kv.has_own_tiles], ids=lambda kv: kv.value)
@pytest.mark.parametrize("name", ["group-2", "windows"])
@pytest.mark.parametrize("isa", available_isas())
def test_several_rows_across_the_border_of_a_split_get_the_bits_of_each_alone(
    name: str, isa: str, kv: KVFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows at positions 1534 to 1537 end in different splits; a request of three rows has them in the same items."""
    monkeypatch.setenv("QUIRE_ISA", isa)
    spec = make_spec(name)
    border = 3 * 512 - NUM_SHARED
    requests = [
        replace(text, token_ids=np.resize(text.token_ids, NUM_SHARED + border + extra))
        for extra, text in enumerate(texts(spec.vocab_size)[:3])
    ]
    oracle = make_executor(spec, 1, kv, DType.BFLOAT16)
    expected = [last_rows(oracle, text, 3) for text in requests]
    found = rows_beside_others(make_executor(spec, 2, kv, DType.BFLOAT16), requests, 3)
    assert [rows.tobytes() for rows in found] == [rows.tobytes() for rows in expected]


def weights_with_a_token_that_is_not_a_number(spec: ModelSpec, token: int) -> Weights:
    weights = dict(random_weights(spec))
    embedding = weights["embed.weight"].to_float32()
    embedding[token] = np.nan
    return Weights({**weights, "embed.weight": replace(weights["embed.weight"], bits=embedding)}, bytes(32))


@pytest.mark.parametrize("kv", ExecutorKind.NATIVE.kv_formats, ids=lambda kv: kv.value)
@pytest.mark.parametrize("name", ["group-1", "group-2", "group-4", "windows"])
@pytest.mark.parametrize("isa", available_isas())
def test_keys_and_values_that_are_not_numbers_change_nothing_that_does_not_see_them(
    name: str, isa: str, kv: KVFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie in slots that were used before, beyond many rows and beyond one, and in later tokens of the same step."""
    monkeypatch.setenv("QUIRE_ISA", isa)
    spec, poison, length, few, spoiled = make_spec(name), 7, 150, 124, 101
    tokens = np.random.default_rng(5).integers(poison + 1, spec.vocab_size, length).astype(np.int32)
    text = Text(token_ids=tokens, blocks=np.arange(length // BLOCK + 1, dtype=np.int32))
    executor = make_executor(spec, 1, kv, weights=weights_with_a_token_that_is_not_a_number(spec, poison))
    seen = np.arange(spec.vocab_size) != poison  # where the head is the embedding, it has a logit that is not a number
    expected = run(executor, (text, 0, length))[:, seen]
    assert np.isfinite(expected).all()

    poisoned = replace(text, token_ids=np.full(length, poison, np.int32))
    run_not_finite(executor, (poisoned, 0, length))
    assert run(executor, (text, 0, length))[:, seen].tobytes() == expected.tobytes(), "stale slots"

    run_not_finite(executor, (poisoned, 0, length))
    run(executor, (text, 0, few))
    for i in range(few, length):
        assert run(executor, (text, i, i + 1))[0, seen].tobytes() == expected[i].tobytes(), f"stale slots beyond row {i} alone"

    tokens = tokens.copy()
    tokens[spoiled] = poison
    found = run_not_finite(executor, (replace(text, token_ids=tokens), 0, length))
    if found is not None:
        assert found[:spoiled, seen].tobytes() == expected[:spoiled].tobytes(), "later tokens"
        assert np.isnan(found[spoiled, seen]).all()
    start = spoiled // BLOCK * BLOCK
    assert run(executor, (text, start, spoiled))[:, seen].tobytes() == expected[start:spoiled].tobytes(), "after that step"


# Not INT4: a channel's scale is of all keys of a tile, so that one key that is not a number spoils the others.
@pytest.mark.parametrize("kv", [kv for kv in KVFormat if kv is not KVFormat.INT4], ids=lambda kv: kv.value)
@pytest.mark.parametrize("spoiled", [20, 33], ids=["even", "odd"])
@pytest.mark.parametrize("isa", available_isas())
def test_keys_and_values_that_are_not_numbers_behind_the_window_change_nothing(
    spoiled: int, isa: str, kv: KVFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first row that does not see them shares their tile with them, and if they are even their pair of values."""
    monkeypatch.setenv("QUIRE_ISA", isa)
    window, poison, length = 40, 7, 100
    spec = spec_of(
        "mistral", sliding_window=window, num_hidden_layers=1, head_dim=64, num_attention_heads=4, num_key_value_heads=2
    )
    tokens = np.random.default_rng(6).integers(poison + 1, spec.vocab_size, length).astype(np.int32)
    text = Text(token_ids=tokens, blocks=np.arange(length // BLOCK + 1, dtype=np.int32))
    executor = make_executor(spec, 1, kv, weights=weights_with_a_token_that_is_not_a_number(spec, poison))
    seen = np.arange(spec.vocab_size) != poison
    clean = spoiled + window
    expected = run(executor, (text, 0, length))[clean:, seen]
    assert np.isfinite(expected).all()

    tokens = tokens.copy()
    tokens[spoiled] = poison
    text = replace(text, token_ids=tokens)
    found = run_not_finite(executor, (text, 0, length))
    if found is not None:
        assert np.isnan(found[spoiled:clean, seen]).all()
        assert found[clean:, seen].tobytes() == expected.tobytes(), "whole"
    run(executor, (text, clean // BLOCK * BLOCK, clean))
    for i in range(clean, length):
        assert run(executor, (text, i, i + 1))[0, seen].tobytes() == expected[i - clean].tobytes(), f"row {i} alone"


LOUD, LOUDER = 7, 8


def loud_spec(length: int) -> ModelSpec:
    shape = {"num_hidden_layers": 1, "hidden_size": 64, "head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    return spec_of("qwen2", rope_theta=1e12, max_position_embeddings=length, **shape)


def loud_weights(spec: ModelSpec, loud: float, louder: float) -> Weights:
    """Returns weights with which every query scores the tokens LOUD and LOUDER by so many nats, and others by a few.

    The last element of a head hardly turns with its position. In queries it is 16; in keys it is what the first two elements of
    a normalized embedding say: 8 of the first is LOUD, 8 of the second is LOUDER, other tokens have zeros.
    """
    weights = dict(random_weights(spec))

    def change(name: str, where: object, value: float | list[float]) -> None:
        values = weights[name].to_float32().copy()
        values[where] = value
        weights[name] = replace(weights[name], bits=values)

    last_of_q, last_of_k = np.s_[63::64], np.s_[63::64, :]
    change("embed.weight", np.s_[:, :2], 0.0)
    change("embed.weight", np.s_[[LOUD, LOUDER]], 0.0)
    change("embed.weight", np.s_[[LOUD, LOUDER], [0, 1]], 1.0)
    change("layers.0.attn_norm.weight", np.s_[:2], 1.0)
    change("layers.0.attn.q.weight", last_of_k, 0.0)
    change("layers.0.attn.q.bias", last_of_q, 16.0)
    change("layers.0.attn.k.weight", last_of_k, [loud / 16, louder / 16] + [0.0] * 62)
    change("layers.0.attn.k.bias", last_of_q, 0.0)
    return Weights(weights, bytes(32))


def loud_text(spec: ModelSpec, length: int, loud_at: int, louder_at: int) -> Text:
    tokens = np.random.default_rng(7).integers(LOUDER + 1, spec.vocab_size, length).astype(np.int32)
    tokens[loud_at], tokens[louder_at] = LOUD, LOUDER
    return Text(token_ids=tokens, blocks=np.arange(length // BLOCK + 1, dtype=np.int32))


@pytest.mark.parametrize("cap", [None, 60.0])
@pytest.mark.parametrize("first", [0, 520], ids=["first split", "second split"])
@pytest.mark.parametrize("loud", [20.0, 80.0, 400.0, 1e11])
@pytest.mark.parametrize("isa", available_isas())
def test_keys_that_score_far_above_the_first_ones_get_their_share(
    isa: str, loud: float, first: int, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them, a nat apart: what refers to a score before them must neither overflow nor take both for the same."""
    monkeypatch.setenv("QUIRE_ISA", isa)
    length, loud_at, louder_at = first + 130, first + 70, first + 100
    spec = replace(loud_spec(length), attention_softcap=cap)
    text, weights = loud_text(spec, length, loud_at, louder_at), loud_weights(spec, loud, loud + 1)
    layout = kv_layout(spec, BLOCK, KVFormat.BFLOAT16)
    reference = ReferenceExecutor(
        spec, weights, ExecutorOptions(layout=layout, num_blocks=length // BLOCK + 1, dtype=DType.FLOAT32)
    )
    expected = run(reference, (text, 0, length))
    executor = make_executor(spec, 1, weights=weights)
    found = run(executor, (text, 0, length))
    assert np.abs(found - expected).max() < 2**-8 * np.abs(expected).max()
    for i in range(loud_at - 1, length, 3):
        assert run(executor, (text, i, i + 1)).tobytes() == found[i].tobytes(), f"row {i} alone"


@pytest.mark.parametrize("isa", available_isas())
def test_keys_that_overflow_reach_every_row_that_sees_them(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their values are finite, so only the softmax can tell."""
    monkeypatch.setenv("QUIRE_ISA", isa)
    length, loud_at = 130, 70
    spec = loud_spec(length)
    text = loud_text(spec, length, loud_at, length - 1)
    executor = make_executor(spec, 1, weights=loud_weights(spec, 3e39, 0.0))
    found = run(executor, (text, 0, length))
    assert np.isfinite(found[:loud_at]).all()
    assert np.isnan(found[loud_at:]).all()


@pytest.mark.parametrize("kv", ExecutorKind.NATIVE.kv_formats, ids=lambda kv: kv.value)
def test_requests_that_part_ways_early_share_what_they_have_in_common(kv: KVFormat) -> None:
    """Two of three tables differ after the first split: the second split is shared by two, the first by all."""
    spec = make_spec("group-2")
    first, second, third = texts(spec.vocab_size)[2:]
    executor = make_executor(spec, 2, kv)
    blocks = np.concatenate([first.blocks[:16], third.whole_elsewhere().blocks[: len(third.blocks) - 16]])
    apart = replace(third, token_ids=np.concatenate([third.token_ids[:512], third.token_ids[:511:-1]]), blocks=blocks)
    run(executor, (apart, 0, NUM_SHARED))
    found = rows_beside_others(executor, [first, apart, second], 1)
    for text, rows in zip((first, apart, second), found, strict=True):
        assert rows.tobytes() == last_rows(make_executor(spec, 1, kv), text, 1).tobytes()
