"""Tensors as a checkpoint of each family stores them."""

from __future__ import annotations

import numpy as np

from quire.models.families import FAMILIES
from support.configs import spec_of

Tensors = dict[str, np.ndarray]


def stored_tensors(family_name: str) -> Tensors:
    """Returns distinct numbers under the names and in the shapes that a checkpoint of this family has on disk."""
    family = next(family for family in FAMILIES if family.name == family_name)
    spec = spec_of(family_name)
    sources = family.sources(spec)
    rows: dict[str, int] = {}
    for canonical, shape in spec.tensor_shapes().items():
        source = sources[canonical]
        rows[source.name] = max(rows.get(source.name, 0), source.rows[1] if source.rows else shape[0])
    tensors: Tensors = {}
    for canonical, shape in spec.tensor_shapes().items():
        source = sources[canonical]
        ours = (rows[source.name], *shape[1:])
        stored = ours[::-1] if source.is_transposed else ours
        size = int(np.prod(stored))
        tensors[source.name] = (np.arange(size, dtype=np.float32) / 7 + len(tensors)).reshape(stored)
    return tensors
