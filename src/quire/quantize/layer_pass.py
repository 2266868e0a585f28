"""A text through a model, layer by layer: the memory of one layer and of the text's rows, however large the model is.

embed      rows [T, E] of every piece
layer 0    tensors in, rows -> rows; what its products multiply can be read on the way
layer 1    ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quire.arrays import Float32Array
from quire.executors.native_layer import INPUT_OF, LayerInputs, NativeLayer
from quire.models.checkpoint import Checkpoint
from quire.models.spec import ModelSpec

Pieces = Sequence[Sequence[int]]
"""Token ids of texts that are computed separately, each from position 0 on."""


@dataclass(frozen=True, slots=True)
class Residual:
    """The rows of every piece, float32 [T, E], between two layers of a model."""

    spec: ModelSpec
    rows: tuple[Float32Array, ...]

    def observed(self, index: int, tensors: Mapping[str, Float32Array], threads: int) -> Iterator[LayerInputs]:
        """Yields what the products of layer `index` multiply, piece after piece; the rows stay as they are."""
        layer = self._layer(index, tensors, threads)
        return (layer.run(rows.copy()) for rows in self.rows)

    def advanced(self, index: int, tensors: Mapping[str, Float32Array], threads: int) -> Iterator[LayerInputs]:
        """Yields the same; when all is read, the rows are those after the layer."""
        layer = self._layer(index, tensors, threads)
        return (layer.run(rows) for rows in self.rows)

    def _layer(self, index: int, tensors: Mapping[str, Float32Array], threads: int) -> NativeLayer:
        longest = max(len(rows) for rows in self.rows)
        own = {name.removeprefix(_prefix(index)): values for name, values in tensors.items()}
        return NativeLayer(self.spec, index, own, max_tokens=longest, threads=threads)


def embed(checkpoint: Checkpoint, pieces: Pieces) -> Residual:
    """Returns the rows before the first layer; a piece has at least one token."""
    spec, weights = checkpoint.spec, checkpoint.weights
    ids = np.concatenate([np.asarray(piece, np.int64) for piece in pieces])
    rows = weights["embed.weight"].select_rows(ids)
    if spec.embedding_scale is not None:
        rows *= np.float32(spec.embedding_scale)
    if spec.has_learned_positions:
        rows += weights["position.weight"].select_rows(np.concatenate([np.arange(len(piece)) for piece in pieces]))
    ends = np.cumsum([len(piece) for piece in pieces])[:-1]
    return Residual(spec, tuple(np.ascontiguousarray(part) for part in np.split(rows, ends)))


def layer_tensors(checkpoint: Checkpoint, index: int) -> dict[str, Float32Array]:
    """Returns the tensors of a layer in float32, by canonical name."""
    weights = checkpoint.weights
    return {name: weights[name].to_float32() for name in weights if name.startswith(_prefix(index))}


def input_of(name: str) -> str:
    """Returns the field of LayerInputs that a matrix of a layer multiplies."""
    return INPUT_OF[name.split(".", 2)[2].removesuffix(".weight")]


def _prefix(index: int) -> str:
    return f"layers.{index}."
