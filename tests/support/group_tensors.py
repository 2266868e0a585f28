"""Weights in any group format of one level, without a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from quire.executors.packing import matrix_shapes
from quire.models.group_format import GroupCodes, GroupFormat, Offset, ScaleType, bits_of, values_of
from quire.models.spec import ModelSpec
from quire.models.weights import DecodedTensor, SourceDType, SourceTensor, Weights, round_to_bfloat16
from support.weights import random_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTensor(DecodedTensor):
    """A matrix of codes; `bits` are the same codes."""

    groups: GroupCodes
    form: GroupFormat

    @property
    def value_dtype(self) -> SourceDType:
        return SourceDType.FLOAT32

    @property
    def group_format(self) -> GroupFormat:
        return self.form

    def to_groups(self) -> GroupCodes:
        return self.groups

    def pieces(self) -> Iterator[SourceTensor]:
        yield SourceTensor(dtype=SourceDType.FLOAT32, bits=values_of(self.groups, self.form))


def group_tensor(form: GroupFormat, shape: tuple[int, int], seed: int) -> GroupTensor:
    """Returns random codes whose values have a mean square of about 1 / K."""
    rng = np.random.default_rng(seed)
    per_group = shape[0], -(-shape[1] // form.group)
    size = 3 / (2**form.bits * shape[1] ** 0.5)
    scales = _numbers(rng.uniform(0.5, 1.5, per_group) * size, form.scales)
    minimums = _numbers(-form.center * size * rng.uniform(0.9, 1.1, per_group), form.scales)
    codes = rng.integers(0, 1 << form.bits, shape, dtype=np.uint8)
    groups = GroupCodes(
        codes=codes,
        scales=scales,
        minimums=minimums if form.offset is Offset.MINIMUM else None,
        zero_points=rng.integers(0, 1 << form.bits, per_group, dtype=np.uint8) if form.offset is Offset.ZERO_POINT else None,
    )
    return GroupTensor(dtype=SourceDType.QUANTIZED, bits=codes, groups=groups, form=form)


def group_weights(spec: ModelSpec, formats: Sequence[GroupFormat]) -> Weights:
    """Returns weights whose matrices take turns in the formats."""
    turns = cycle(formats)
    matrices = {name: group_tensor(next(turns), shape, seed) for seed, (name, shape) in enumerate(matrix_shapes(spec).items())}
    return Weights({**random_weights(spec), **matrices}, b"group formats".ljust(32))


def _numbers(values: np.ndarray, scales: ScaleType) -> np.ndarray:
    if scales is ScaleType.FLOAT16:
        return bits_of(values.astype(np.float32), scales)
    return round_to_bfloat16(values.astype(np.float32))
