"""Stored formats beside each other: rows that end within a group are read in one encoding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from quire.config import WeightFormat
from quire.executors.packing import Encoding, PackLayout, matrix_formats
from quire.models.group_format import GroupFormat, Offset, ScaleType
from quire.models.weights import SourceDType
from support.configs import spec_of


class MixedWeights:
    """Down projections in groups, everything else in float32."""

    def __getitem__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(dtype=SourceDType.FLOAT32)

    def group_format(self, name: str) -> GroupFormat | None:
        return GroupFormat(4, 32, ScaleType.FLOAT16, Offset.CENTER) if name.endswith("ffn.down.weight") else None


@pytest.mark.parametrize(("hidden_size", "encodings"), [(64, {Encoding.FLOAT32, Encoding.GROUPS}), (48, {Encoding.FLOAT32})])
def test_uneven_rows_beside_another_encoding_widen_all(hidden_size: int, encodings: set[Encoding]) -> None:
    spec = spec_of(
        "llama", hidden_size=hidden_size, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96, head_dim=16
    )
    weights: Any = MixedWeights()
    formats = matrix_formats(spec, weights, WeightFormat.STORED, PackLayout.VNNI)
    assert {each.encoding for each in formats.values()} == encodings
