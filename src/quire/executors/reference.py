"""The definition: a decoder in NumPy, to be read from top to bottom with the formulas of `reference_math.py`.

One call of `run` is one step. It computes T new tokens of one or more requests, whatever they are: a whole prompt, a chunk
of one, or the one token that decode adds. For every layer it first *writes* the new keys and values into the cache and then
*attends* to the cache, so a new token finds itself and its neighbors of the step there like any older token.

    token_ids --embed--> x [T, E]
    for each layer:      x = x + post(attention(pre(x)))        post or pre is missing in most families
                         x = x + post(feed_forward(pre(x)))
    x[sample_rows] --final norm, head--> logits [S, V]          the head runs only where a token is wanted

The cache is paged (`reference_kv.py`). Token i of a request lies in slot

    block_table[i // block_size] * block_size + i % block_size

so a request's blocks may lie anywhere, and two requests may share one.

Slow, and meant to be: every other executor is tested against this one, and this one against `transformers`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from quire.arrays import Float32Array, Int32Array
from quire.config import WeightFormat
from quire.executors.checks import check_block, check_rows, check_step
from quire.executors.host import HostExecutor
from quire.executors.kv_blocks import BlockFormat, PageOrder
from quire.executors.options import ExecutorOptions, calibration_name
from quire.executors.packing import Encoding, matrix_formats
from quire.executors.protocol import StepBatch
from quire.executors.reference_kv import PagedKV
from quire.executors.reference_kv_formats import widened
from quire.executors.reference_math import (
    Array,
    activate,
    attention,
    layer_norm,
    linear,
    rms_norm,
    rotate,
    scoring_of,
    visible,
)
from quire.executors.reference_quantize import factors_of, quantized_rows, quantized_weights, stored_values
from quire.executors.rotation import GROUP as ROTATED_GROUP
from quire.executors.rotation import turned_back
from quire.executors.work_counts import WorkCounts
from quire.models.spec import DenseFfn, FfnKind, LayerSpec, ModelSpec, NormKind, QKNorm
from quire.models.weights import SourceTensor, Weights


class ReferenceExecutor(HostExecutor):
    """Runs steps in float32.

    With `DType.BFLOAT16` the token table, the linear layers and the head hold bfloat16 values; norms, biases, learned
    positions and all arithmetic stay float32. With `Quantize` they hold integers times scales, and so do the rows they are
    multiplied with, in the groups of `int_layout`; with `WeightFormat.STORED` the integers are the checkpoint's. Keys and
    values are rounded to the KV format when they are written, and widened when they are read.
    Not bitwise reproducible: NumPy's matrix product may order its sums by shape. Use it to judge accuracy.
    """

    arithmetic: ClassVar[type[np.floating[Any]]] = np.float32

    def __init__(self, spec: ModelSpec, weights: Weights, options: ExecutorOptions) -> None:
        layout = options.layout
        self.spec = spec
        self.layout = layout
        self.num_blocks = options.num_blocks
        self._int_layout = options.int_layout
        self._weight_format = options.weight_format
        self._formats = matrix_formats(spec, weights, options.weight_format, options.int_layout)
        self._importance = options.importance or {}
        self._factors = {
            name: factors_of(self._importance.get(name), weights[name].shape[1])
            for name, each in self._formats.items()
            if each.encoding is Encoding.ROTATED
        }
        self._weights: dict[str, Array] = {name: self._load(name, weights[name]) for name in spec.tensor_shapes()}
        self._embedding = self._turned_back_embedding()
        self.num_own_tiles = options.num_own_tiles
        self._kv = PagedKV(layout, self.num_blocks, self.num_own_tiles, self.arithmetic)
        self._blocks = BlockFormat(layout=layout, order=PageOrder.ARRAYS, num_bytes=len(self._kv.pages_of(0)))
        self._counts: WorkCounts | None = None
        self._latest: Array = np.empty((0, spec.hidden_size), dtype=self.arithmetic)

    @property
    def name(self) -> str:
        return f"reference (NumPy {np.dtype(self.arithmetic).name})"

    @property
    def kv_bytes(self) -> int:
        return self._kv.num_bytes

    @property
    def numerics(self) -> str:
        arithmetic = np.dtype(self.arithmetic).name
        weights = self._weight_format.value
        if self._weight_format in (WeightFormat.INT8, WeightFormat.INT4):
            weights += f" for {self._int_layout.value} by {calibration_name(self._importance)}"
        return f"reference-1 {arithmetic} weights={weights} kv={self.layout.name} numpy={np.__version__}"

    def run(self, batch: StepBatch) -> Float32Array:
        """Writes K/V of all T tokens into their slots and returns logits [S, V], float32, of the wanted rows.

        Raises ExecutorError: before anything is written for a token, position, slot or row outside its range, and at the end
        for a key or value that is not finite in a quantized KV format.
        """
        check_step(batch, self.spec, self.layout, self.num_blocks, self.num_own_tiles)
        x = self._embed(batch)
        for index, layer in enumerate(self.spec.layers):
            x = self._run_layer(index, layer, x, batch)
        self._kv.require_finite()
        self._latest = x
        return self._head(x[batch.sample_rows])

    def head(self, rows: Int32Array) -> Float32Array:
        """Returns logits [len(rows), V], float32, of rows of the latest step; raises ExecutorError for a row it had not."""
        check_rows(rows, len(self._latest))
        return self._head(self._latest[rows])

    def read_kv(self, layer: int, slots: Int32Array) -> tuple[Float32Array, Float32Array]:
        """Returns K and V of the given slots as float32 [len(slots), K, D], after rotation and rounding."""
        k, v = self._kv.read(layer, slots)
        return k.astype(np.float32), v.astype(np.float32)

    def copy_block(self, source: int, target: int) -> None:
        """Copies all layers' K/V of block `source` to block `target`."""
        self._kv.copy_block(source, target)

    def copy_own_tile(self, source: int, target: int) -> None:
        """Copies all layers' K/V of own tile `source` to own tile `target`."""
        super().copy_own_tile(source, target)
        self._kv.copy_own_tile(source, target)

    def export_block(self, block: int) -> bytes:
        """Returns all layers' K/V of a block, with the version and shape of the format."""
        check_block(block, self.num_blocks)
        return self._blocks.packed(self._kv.pages_of(block))

    def import_block(self, block: int, data: bytes) -> None:
        """Overwrites all layers' K/V of a block with an exported one; raises KVBlockError for any other bytes."""
        check_block(block, self.num_blocks)
        self._kv.set_pages(block, self._blocks.pages_of(data))

    def start_counting(self) -> None:
        """Counts multiply-adds from now on."""
        self._counts = WorkCounts()

    def stop_counting(self) -> WorkCounts:
        """Returns what was counted since `start_counting`."""
        found, self._counts = self._counts or WorkCounts(), None
        return found

    def _embed(self, batch: StepBatch) -> Array:
        """Returns x [T, E]: one row of the table per token, plus one row per position where positions are learned."""
        x = self._embedding[batch.token_ids]
        if self.spec.embedding_scale is not None:
            x = x * self.spec.embedding_scale
        if self.spec.has_learned_positions:
            x = x + self._weights["position.weight"][batch.positions]
        return x

    def _run_layer(self, index: int, layer: LayerSpec, x: Array, batch: StepBatch) -> Array:
        """Returns x after attention and feed-forward; a norm that the family does not place passes its input through."""
        name = f"layers.{index}"
        attended = self._attend(index, layer, self._norm(f"{name}.attn_norm", x), batch)
        x = x + self._norm(f"{name}.attn_post_norm", attended)
        fed = self._feed_forward(f"{name}.ffn", layer.ffn, self._norm(f"{name}.ffn_norm", x))
        return x + self._norm(f"{name}.ffn_post_norm", fed)

    def _attend(self, index: int, layer: LayerSpec, x: Array, batch: StepBatch) -> Array:
        """Returns the attention part of a layer [T, E]: project, rotate, write K/V, attend request by request."""
        name, num_tokens = f"layers.{index}.attn", len(x)
        q, k, v = self._project(name, x)
        if layer.rope is not None:
            q, k = rotate(q, batch.positions, layer.rope), rotate(k, batch.positions, layer.rope)
        scoring = scoring_of(self.spec, index)
        mixed = np.empty_like(q)
        for rows, keys, values in self._kv.append(index, batch, k, v):
            if self._counts is not None:
                seen = int(visible(rows.stop - rows.start, len(keys), scoring.window).sum()) * self.spec.num_heads
                self._counts += WorkCounts(scores=seen * self.spec.head_dim, mixing=seen * self.spec.head_dim)
            mixed[rows] = attention(q[rows], keys, values, scoring)
        return self._linear(f"{name}.out", mixed.reshape(num_tokens, -1))

    def _project(self, name: str, x: Array) -> tuple[Array, Array, Array]:
        """Returns q [T, H, D], k [T, K, D] and v [T, K, D]; queries and keys normed where the family does so."""
        q, k, v = (self._linear(f"{name}.{part}", x) for part in ("q", "k", "v"))
        if self.spec.qk_norm is QKNorm.WHOLE:
            q, k = self._norm_rms(f"{name}.q_norm", q), self._norm_rms(f"{name}.k_norm", k)
        q, k, v = (projected.reshape(len(x), -1, self.spec.head_dim) for projected in (q, k, v))
        if self.spec.qk_norm is QKNorm.PER_HEAD:
            q, k = self._norm_rms(f"{name}.q_norm", q), self._norm_rms(f"{name}.k_norm", k)
        return q, k, v

    def _feed_forward(self, name: str, ffn: DenseFfn, x: Array) -> Array:
        """Returns down(act(gate(x)) * up(x)), or down(act(up(x))) without a gate."""
        if ffn.kind is FfnKind.GATED:
            hidden = activate(self._linear(f"{name}.gate", x), ffn.activation) * self._linear(f"{name}.up", x)
        else:
            hidden = activate(self._linear(f"{name}.up", x), ffn.activation)
        return self._linear(f"{name}.down", hidden)

    def _head(self, x: Array) -> Float32Array:
        """Returns the logits of the rows in x, [S, V]."""
        table = "embed.weight" if self.spec.is_head_tied else "head.weight"
        logits = self._multiply(self._norm("final_norm", x), table, None)
        if self.spec.logit_softcap is not None:
            logits = self.spec.logit_softcap * np.tanh(logits / self.spec.logit_softcap)
        return logits.astype(np.float32, copy=False)

    def _linear(self, name: str, x: Array) -> Array:
        return self._multiply(x, f"{name}.weight", self._weights.get(f"{name}.bias"))

    def _multiply(self, x: Array, weight: str, bias: Array | None) -> Array:
        if self._counts is not None:
            count = x.size * len(self._weights[weight])
            self._counts += WorkCounts(projections=count) if weight.startswith("layers.") else WorkCounts(head=count)
        encoding = self._formats[weight].encoding
        if encoding not in (Encoding.FLOAT32, Encoding.BFLOAT16):
            x = quantized_rows(x.astype(np.float32), encoding, self._factors.get(weight)).astype(self.arithmetic)
        return linear(x, self._weights[weight], bias)

    def _norm(self, name: str, x: Array) -> Array:
        if f"{name}.weight" not in self._weights:
            return x
        if self.spec.norm is NormKind.RMS:
            return self._norm_rms(name, x)
        return layer_norm(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], self.spec.norm_eps)

    def _norm_rms(self, name: str, x: Array) -> Array:
        return rms_norm(x, self._weights[f"{name}.weight"], self.spec.norm_eps)

    def _turned_back_embedding(self) -> Array:
        """Returns the embedding [V, E] as it was before rotation: rotated it may be, since the head multiplies with it."""
        table = self._weights["embed.weight"]
        if self._formats["embed.weight"].encoding is not Encoding.ROTATED:
            return table
        groups = table.astype(np.float32).reshape(len(table), -1, ROTATED_GROUP)
        return turned_back(groups, self._factors["embed.weight"]).astype(self.arithmetic)

    def _load(self, name: str, tensor: SourceTensor) -> Array:
        values = self._packed(name, tensor) if name in self._formats else tensor.to_float32()
        return values.astype(self.arithmetic)

    def _packed(self, name: str, tensor: SourceTensor) -> Float32Array:
        """Returns a matrix as its format holds it."""
        panel_format, importance = self._formats[name], self._importance.get(name)
        if panel_format.encoding is Encoding.FLOAT32:
            return tensor.to_float32()
        if panel_format.encoding is Encoding.BFLOAT16:
            return widened(tensor.to_bfloat16())
        if self._weight_format is WeightFormat.STORED:
            return stored_values(tensor, panel_format)
        return quantized_weights(tensor.to_float32(), panel_format, importance)


class Float64ReferenceExecutor(ReferenceExecutor):
    """The same in float64, to measure the rounding of the float32 executors; a float32 cache holds float64 here."""

    arithmetic: ClassVar[type[np.floating[Any]]] = np.float64
