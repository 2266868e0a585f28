"""One layer of a model on the compiled core, in float32: rows of the residual in, rows out, and what its products multiply.

A pass over a model layer by layer holds one layer at a time in memory, however large the model is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from quire.arrays import Float32Array
from quire.config import KERNEL_TILE_TOKENS, KVFormat
from quire.executors.core_errors import translated_errors
from quire.executors.native import chosen_isa, load_core
from quire.executors.native_shape import shape_of
from quire.executors.protocol import kv_layout
from quire.models.spec import ModelSpec
from quire.units import cdiv

INPUT_OF: Mapping[str, str] = {
    "attn.q": "qkv",
    "attn.k": "qkv",
    "attn.v": "qkv",
    "attn.out": "out",
    "ffn.gate": "up",
    "ffn.up": "up",
    "ffn.down": "down",
}
"""The field of LayerInputs that each linear layer multiplies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInputs:
    """What the products of a layer multiply, float32 [T, K]: q, k and v; the attention's output; gate and up; down."""

    qkv: Float32Array
    out: Float32Array
    up: Float32Array
    down: Float32Array


class NativeLayer:
    """Layer `index` of a model for pieces of at most `max_tokens` tokens; `threads` changes no bit.

    `tensors` are float32, by name within the layer ("attn.q.weight"). Raises ExecutorUnavailableError where no core was compiled.
    """

    def __init__(
        self, spec: ModelSpec, index: int, tensors: Mapping[str, Float32Array], *, max_tokens: int, threads: int
    ) -> None:
        num_slots = cdiv(max_tokens, KERNEL_TILE_TOKENS) * KERNEL_TILE_TOKENS
        self._spec = _alone(spec, index, num_slots)
        self._core = core = load_core()
        with translated_errors(core):
            float32 = core.PanelFormat(core.Encoding.F32)
            self._decoder = core.Decoder(shape_of(core, self._spec), float32, {}, chosen_isa(core), threads)
            layout = kv_layout(self._spec, num_slots, KVFormat.FLOAT32)
            self._decoder.allocate_kv(1, num_slots, core.KVFormat.F32, layout.bytes_per_block)
            for name, values in tensors.items():
                self._set(f"layers.0.{name}", values)
            for name, shape in self._spec.tensor_shapes().items():
                if not name.startswith("layers."):
                    self._set(name, np.zeros(shape, np.float32))

    def _set(self, name: str, values: Float32Array) -> None:
        if values.ndim == 1:
            self._decoder.set_vector(name, values)
        else:
            self._decoder.set_matrix(name, values)

    def run(self, rows: Float32Array) -> LayerInputs:
        """Runs a piece of T tokens that begins at position 0: `rows`, contiguous float32 [T, E], becomes the layer's output."""
        spec, num_rows = self._spec, len(rows)
        widths = (spec.hidden_size, spec.num_heads * spec.head_dim, spec.hidden_size, spec.ffn_size)
        qkv, out, up, down = (np.empty((num_rows, width), np.float32) for width in widths)
        with translated_errors(self._core):
            self._decoder.run_layer(rows, qkv, out, up, down)
        return LayerInputs(qkv=qkv, out=out, up=up, down=down)


def _alone(spec: ModelSpec, index: int, max_context: int) -> ModelSpec:
    """Returns a model of one layer, with the least embedding that there can be."""
    return replace(
        spec,
        layers=(spec.layers[index],),
        vocab_size=1,
        is_head_tied=True,
        has_learned_positions=False,
        max_context=max_context,
    )
