"""Attention over K/V pages of integers, alone: tiles are written here, after the layout, and read by the kernel.

The oracle is attention in float64 over what the tiles stand for, with queries rounded to 8 bits as the kernels round them. What
remains are float32 sums, probabilities of 15 bits, and of 8 bits in a row's own tile, whose values are therefore small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from quire.arrays import Float32Array
from quire.executors.native import available_isas
from support.kv_tiles import NAN_BITS, TOKENS, Bytes, TileFormat, bits_of, own_tile, rounded

core: Any = pytest.importorskip("quire.native._core", reason="the native core is not compiled here")

OWN_SCALE = np.float32(1 / 64)
BOUND = 6e-4
FORMATS = {
    "int8": TileFormat(key_bits=8, value_bits=8),
    "int8-int4": TileFormat(key_bits=8, value_bits=4, group=32),
    "int4": TileFormat(key_bits=4, value_bits=4, group=64),
    "bfloat16 keys, int8": TileFormat(key_bits=16, value_bits=8),
    "bfloat16 keys, int4": TileFormat(key_bits=16, value_bits=4, group=64),
}
ELEMENTS = {16: "BF16", 8: "INT8", 4: "INT4"}
Doubles = npt.NDArray[np.float64]


@pytest.fixture(params=available_isas())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=FORMATS)
def tiles(request: pytest.FixtureRequest) -> TileFormat:
    return FORMATS[request.param]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    head_dim: int = 64
    num_kv_heads: int = 2
    gqa: int = 2
    tiles_per_block: int = 1
    window: int = 1 << 30
    softcap: float = 0.0

    @property
    def scale(self) -> float:
        return float(self.head_dim) ** -0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A request: q [T, H, D], and K and V [T, K, D] up to whole tiles, all of them bfloat16."""

    q: Float32Array
    keys: Float32Array
    values: Float32Array

    @property
    def num_tiles(self) -> int:
        return len(self.keys) // TOKENS

    def of_tile(self, tile: int, head: int) -> tuple[Float32Array, Float32Array]:
        tokens = slice(tile * TOKENS, (tile + 1) * TOKENS)
        return self.keys[tokens, head], self.values[tokens, head]


def text_of(shape: Shape, length: int, seed: int = 0) -> Text:
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> Float32Array:
        return generator.standard_normal(shape, dtype=np.float32)

    num_slots = -(-length // TOKENS) * TOKENS
    heads = (num_slots, shape.num_kv_heads, shape.head_dim)
    return Text(
        q=rounded(2 * normal(length, shape.num_kv_heads * shape.gqa, shape.head_dim)),
        keys=rounded(normal(*heads) + normal(*heads[1:])),
        values=rounded(normal(*heads)),
    )


class World:
    """Texts in pages and own tiles. The first `num_shared` tiles of all texts are those of the first text.

    Every tile has a page and an own tile; an own tile's values are multiplied by OWN_SCALE.
    """

    def __init__(self, shape: Shape, tiles: TileFormat, texts: list[Text], num_shared: int = 0) -> None:
        self.shape, self.tiles, self.texts = shape, tiles, texts
        per_block = shape.tiles_per_block
        num_blocks = -(-max(text.num_tiles for text in texts) // per_block)
        self.tables = np.arange(len(texts) * num_blocks, dtype=np.int32).reshape(len(texts), num_blocks)[:, ::-1].copy()
        self.tables[:, : num_shared // per_block] = self.tables[0, : num_shared // per_block]
        self.key_bytes = len(tiles.pack_keys(texts[0].of_tile(0, 0)[0])[0])
        tile_bytes = self.key_bytes + len(tiles.pack_values(texts[0].of_tile(0, 0)[1])[0])
        garbage = np.random.default_rng(99).integers(0, 256, (self.tables.size, shape.num_kv_heads, per_block, tile_bytes))
        self.pages = garbage.astype(np.uint8)
        self.own = np.full((len(texts), texts[0].num_tiles + 40, shape.num_kv_heads, TOKENS * shape.head_dim * 4), 0xFF, np.uint8)
        for index, text in enumerate(texts):
            for tile in range(text.num_tiles):
                self._write(index, tile)

    def page(self, text: int, tile: int, head: int) -> tuple[Bytes, Bytes]:
        """Returns the K and V bytes of a tile, which may be changed."""
        block, within = divmod(tile, self.shape.tiles_per_block)
        page = self.pages[self.tables[text, block], head, within]
        return page[: self.key_bytes], page[self.key_bytes :]

    def _write(self, index: int, tile: int) -> None:
        for head in range(self.shape.num_kv_heads):
            keys, values = self.texts[index].of_tile(tile, head)
            k, v = self.page(index, tile, head)
            k[:], v[:] = self.tiles.pack_keys(keys)[0], self.tiles.pack_values(values)[0]
            self.own[index, tile, head] = own_tile(keys, values * OWN_SCALE)

    def run(self, isa: str, parts: list[tuple[int, int, int]], threads: int = 1) -> list[Float32Array]:
        """Returns attention [rows, H * D] of rows [start, end) of each (text, start, end), all in one call."""
        s = self.shape
        case = core.AttentionCase()
        case.isa, case.threads, case.num_kv_heads, case.tiles_per_block = isa, threads, s.num_kv_heads, s.tiles_per_block
        case.keys = getattr(core.KVElement, ELEMENTS[self.tiles.key_bits])
        case.values = getattr(core.KVElement, ELEMENTS[self.tiles.value_bits])
        case.value_group, case.window, case.scale, case.softcap = self.tiles.group, s.window, s.scale, s.softcap
        positions = [np.arange(start, end, dtype=np.int32) for _, start, end in parts]
        own = [text * self.own.shape[1] + at // TOKENS for (text, _, _), at in zip(parts, positions, strict=True)]
        q = np.concatenate([self.texts[text].q[start:end] for text, start, end in parts])
        out = np.empty((len(q), q.shape[1] * q.shape[2]), np.float32)
        core.attend(
            case,
            self.pages.reshape(-1),
            self.own.reshape(-1),
            np.concatenate(own).astype(np.int32) if self.tiles.has_own_tiles else np.empty(0, np.int32),
            bits_of(q),
            np.concatenate(positions),
            np.cumsum([0] + [len(each) for each in positions], dtype=np.int32),
            self.tables[[text for text, _, _ in parts]],
            out,
        )
        return np.split(out, np.cumsum([len(each) for each in positions])[:-1])


def codes_of(q: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Returns queries [.., D] as 8-bit codes, and their scales [.., 1]."""
    top = np.abs(q).max(axis=-1, keepdims=True)
    return np.rint(q * (np.float32(127) / top)), top * np.float32(1 / 127)


def scores_of(tiles: TileFormat, q: Float32Array, keys: Float32Array) -> Doubles:
    """Returns scores [rows, 32] of queries with the packed keys of a tile."""
    stored = tiles.pack_keys(keys)[1].astype(np.float64)
    if tiles.key_bits == 16:
        return q.astype(np.float64) @ stored.T
    if tiles.key_bits == 8:
        codes, scales = codes_of(q)
        return (codes * scales).astype(np.float64) @ stored.T
    minimums, scales = (each.astype(np.float64) for each in tiles.key_factors(keys))
    codes, by = codes_of(q * scales.astype(np.float32))
    inner = codes.astype(np.float64) @ ((stored - minimums) / np.where(scales > 0, scales, 1)).T
    return inner * by + (q.astype(np.float64) @ minimums.T)


def expected(world: World, index: int, positions: npt.NDArray[np.int64], head: int) -> Doubles:
    """Returns what rows of a query head must attend to."""
    text, tiles, shape = world.texts[index], world.tiles, world.shape
    q, kv_head = text.q[positions, head], head // shape.gqa
    scores = np.empty((len(positions), len(text.keys)))
    values = np.empty((len(positions), len(text.keys), shape.head_dim))
    for tile in range(text.num_tiles):
        k, v = text.of_tile(tile, kv_head)
        at = slice(tile * TOKENS, (tile + 1) * TOKENS)
        scores[:, at], values[:, at] = scores_of(tiles, q, k), tiles.pack_values(v)[1]
        is_own = (positions // TOKENS == tile) & tiles.has_own_tiles
        scores[is_own, at] = q[is_own].astype(np.float64) @ k.astype(np.float64).T
        values[is_own, at] = v * OWN_SCALE
    scores *= shape.scale
    if shape.softcap:
        scores = shape.softcap * np.tanh(scores / shape.softcap)
    distance = positions[:, None] - np.arange(len(text.keys))
    scores[(distance < 0) | (distance >= shape.window)] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("rt,rtd->rd", weights, values)


SHAPES = {
    "group-1": Shape(gqa=1, head_dim=96),
    "group-2": Shape(head_dim=128),
    "group-3": Shape(gqa=3, head_dim=80, tiles_per_block=2),
    "group-8": Shape(gqa=8, num_kv_heads=1),
    "narrow": Shape(gqa=4, head_dim=24),
    "wide": Shape(gqa=2, head_dim=256, num_kv_heads=1),
    "window": Shape(window=41),
    "softcap": Shape(softcap=3.0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_rows_attend_to_what_the_tiles_stand_for(isa: str, tiles: TileFormat, name: str) -> None:
    shape = SHAPES[name]
    world = World(shape, tiles, [text_of(shape, 107)])
    (found,) = world.run(isa, [(0, 0, 107)])
    for head in range(shape.num_kv_heads * shape.gqa):
        wanted = expected(world, 0, np.arange(107), head)
        assert np.abs(found[:, head * shape.head_dim : (head + 1) * shape.head_dim] - wanted).max() < BOUND


LONG = {"plain": Shape(head_dim=64), "odd": Shape(gqa=3, head_dim=24, num_kv_heads=1), "window": Shape(window=600, head_dim=80)}


@pytest.mark.parametrize("name", LONG)
def test_a_row_has_the_same_bits_by_every_road(isa: str, tiles: TileFormat, name: str) -> None:
    """Alone and in chunks of any size, over two borders of splits, on one thread and on two."""
    shape, length = LONG[name], 1100
    world = World(shape, tiles, [text_of(shape, length)])
    (whole,) = world.run(isa, [(0, 960, length)])
    positions = np.arange(length - 3, length)
    for head in range(shape.num_kv_heads * shape.gqa):
        wanted = expected(world, 0, positions, head)
        assert np.abs(whole[-3:, head * shape.head_dim : (head + 1) * shape.head_dim] - wanted).max() < BOUND
    for size in (1, 2, 3, 7, 31, 64):
        for start in range(960 + 13 * size % 5, length, size if size > 8 else 29):
            end = min(start + size, length)
            for threads in (1, 2):
                (found,) = world.run(isa, [(0, start, end)], threads)
                assert found.tobytes() == whole[start - 960 : end - 960].tobytes(), (start, end, threads)


def test_requests_that_share_splits_get_the_bits_of_each_alone(isa: str, tiles: TileFormat) -> None:
    """Among them two whose last row ends a split, and so stands in the last tile of what others read in pages."""
    shape, shared = Shape(gqa=2, head_dim=64), 16 * TOKENS
    first = text_of(shape, 700, 1)
    others = [text_of(shape, length, seed) for seed, length in ((2, 513), (3, 512), (4, 1024), (5, 560))]
    texts = [first] + [
        Text(
            q=each.q,
            keys=np.concatenate([first.keys[:shared], each.keys[shared:]]),
            values=np.concatenate([first.values[:shared], each.values[shared:]]),
        )
        for each in others
    ]
    world = World(shape, tiles, texts, num_shared=16)
    parts = [(index, len(text.q) - 1 - index % 2, len(text.q)) for index, text in enumerate(texts)]
    alone = [world.run(isa, [part])[0].tobytes() for part in parts]
    for threads in (1, 2):
        assert [rows.tobytes() for rows in world.run(isa, parts, threads)] == alone
    order = [3, 1, 4, 2, 0]
    assert [rows.tobytes() for rows in world.run(isa, [parts[i] for i in order])] == [alone[i] for i in order]


@pytest.mark.parametrize("row", [64, 77, 94])
def test_what_a_row_does_not_see_changes_no_bit(isa: str, tiles: TileFormat, row: int) -> None:
    """Later tokens, in its tile and after it, and tokens behind its window, among them some of a tile it sees."""
    shape = Shape(window=41, head_dim=80)
    world = World(shape, tiles, [text_of(shape, 128)])
    (clean,) = world.run(isa, [(0, row - 2, row + 1)])
    first = row + 1 - shape.window
    for head in range(shape.num_kv_heads):
        for tile in range(4):
            k, v = world.page(0, tile, head)
            hidden = [slice(0, max(first - tile * TOKENS, 0)), slice(max(row + 1 - tile * TOKENS, 0), TOKENS)]
            if not tiles.has_own_tiles or tile < row // TOKENS:
                for tokens in hidden:
                    tiles.spoil(k, v, shape.head_dim, tokens)
            else:
                k[:], v[:] = 0xFF, 0xFF
            pairs = world.own[0, tile, head].view(np.uint16).reshape(2, -1)
            for tokens in hidden:
                pairs[0].reshape(-1, TOKENS, 2)[:, tokens] = NAN_BITS
                pairs[1].reshape(TOKENS // 2, -1, 2).swapaxes(1, 2).reshape(TOKENS, -1)[tokens] = NAN_BITS
    (found,) = world.run(isa, [(0, row, row + 1)])
    assert found.tobytes() == clean[2:].tobytes()


@pytest.mark.parametrize("spoiled", ["keys", "values"])
def test_scales_that_are_not_numbers_reach_every_row_that_sees_them(isa: str, tiles: TileFormat, spoiled: str) -> None:
    shape = Shape()
    world = World(shape, tiles, [text_of(shape, 100)])
    for head in range(shape.num_kv_heads):
        k, v = world.page(0, 1, head)
        if spoiled == "values":
            tiles.spoil(k.copy(), v, shape.head_dim, slice(5, 6))
        elif tiles.key_bits == 4:
            k.view(np.uint16)[-2 * shape.head_dim + 3] = NAN_BITS
        else:
            tiles.spoil(k, v.copy(), shape.head_dim, slice(5, 6))
    (found,) = world.run(isa, [(0, 0, 100)])
    first = 64 if tiles.has_own_tiles else TOKENS + 5
    assert np.isfinite(found[:first]).all()
    assert np.isnan(found[first:]).all()
