"""How matrices lie in memory: the format of each one, and how many bits and bytes it takes.

A matrix is panels of 64 rows. Matrices that share their input lie in one another's neighborhood and are multiplied together:
queries, keys and values; gate and up. All their panels read the same kind of activations, so they are floats of one format,
or group formats, which may differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod
from types import MappingProxyType

from quire.config import WeightFormat
from quire.models.group_format import WORD, GroupFormat, Offset, ScaleType
from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, Weights
from quire.units import cdiv

_PANEL_ROWS = 64
_AMX_WORD, _AMX_GROUP = 64, 256
_FUSED = (("attn.q", "attn.k", "attn.v"), ("ffn.gate", "ffn.up"))


class PackLayout(Enum):
    """Which instructions int8 is packed for; an instruction set has one layout. Groups are of 32 columns, or 256 for AMX.

    int4 has one layout, that of groups of 32.
    """

    VNNI = "vnni"
    AMX = "amx"


class Encoding(Enum):
    """What panels hold, and with that, what they are multiplied by.

    `ROTATED`: 8 bits in groups of 32, of weights and inputs that were rotated. `INT8_AMX`: signed bytes with a bfloat16 scale
    per 256.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    GROUPS = "groups"
    ROTATED = "rotated groups"
    INT8_AMX = "int8 for amx"


_ELEMENT_BITS: Mapping[Encoding, int] = MappingProxyType({Encoding.FLOAT32: 32, Encoding.BFLOAT16: 16, Encoding.INT8_AMX: 8})


@dataclass(frozen=True, slots=True)
class PanelFormat:
    """How the rows of a matrix are held; `groups` with Encoding.GROUPS and ROTATED."""

    encoding: Encoding
    groups: GroupFormat | None = None

    @property
    def description(self) -> str:
        """The format as text."""
        return self.encoding.value if self.groups is None else self.groups.description

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight, with its share of what its group takes besides."""
        if self.groups is not None:
            return self.groups.bits_per_weight
        return _ELEMENT_BITS[self.encoding] + (8 * 2 / _AMX_GROUP if self.encoding is Encoding.INT8_AMX else 0)

    def row_bytes(self, num_columns: int) -> int:
        """Returns the bytes of a row."""
        if self.groups is not None:
            return self.groups.row_bytes(num_columns)
        if self.encoding is Encoding.INT8_AMX:
            return cdiv(num_columns, _AMX_WORD) * _AMX_WORD + 2 * cdiv(num_columns, _AMX_GROUP)
        return cdiv(num_columns, WORD) * WORD * _ELEMENT_BITS[self.encoding] // 8


def packed_bytes(shape: tuple[int, int], panel_format: PanelFormat) -> int:
    """Returns the bytes of a packed matrix [N, K]: whole panels."""
    return cdiv(shape[0], _PANEL_ROWS) * _PANEL_ROWS * panel_format.row_bytes(shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFormats:
    """What a checkpoint's matrices take in memory: bits of a weight over all of them, and weights by format, in words."""

    bits_per_weight: float
    num_weights: Mapping[str, int]


def matrix_shapes(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """Returns the shapes of what is packed: every matrix but the table of learned positions."""
    shapes = spec.tensor_shapes().items()
    return {name: (shape[0], shape[1]) for name, shape in shapes if len(shape) == 2 and name != "position.weight"}


_INT8 = GroupFormat(8, 32, ScaleType.BFLOAT16, Offset.CENTER)
_FINE, _COARSE = (GroupFormat(bits, 32, ScaleType.TWO_LEVEL, Offset.MINIMUM) for bits in (5, 4))
_FINE_ENDS = (".attn.v.weight", ".ffn.down.weight")


def panel_format_of(name: str, weight_format: WeightFormat, layout: PackLayout) -> PanelFormat:
    """Returns how a matrix is held whose format was chosen, whatever the checkpoint holds.

    int4 is a mix, as in K-quants: embedding and head take 8 bits, values and down projections, which lose most, take 5.
    """
    if weight_format is WeightFormat.INT8:
        return PanelFormat(Encoding.INT8_AMX) if layout is PackLayout.AMX else PanelFormat(Encoding.ROTATED, _INT8)
    if weight_format is not WeightFormat.INT4:
        return PanelFormat(Encoding(weight_format.value))
    if not name.startswith("layers."):
        return PanelFormat(Encoding.ROTATED, _INT8)
    return PanelFormat(Encoding.GROUPS, _FINE if name.endswith(_FINE_ENDS) else _COARSE)


def chosen_formats(spec: ModelSpec, weight_format: WeightFormat, layout: PackLayout) -> dict[str, PanelFormat]:
    """Returns the format of every matrix by its canonical name, whatever the checkpoint holds.

    Rows of activations that end within a group are read in one encoding: where there are such, none is rotated beside others.
    """
    shapes = matrix_shapes(spec)
    formats = {name: panel_format_of(name, weight_format, layout) for name in shapes}
    if _has_uneven_rows(spec) and len({each.encoding for each in formats.values()}) > 1:
        return {name: PanelFormat(Encoding.GROUPS, each.groups) for name, each in formats.items()}
    return formats


def matrix_formats(spec: ModelSpec, weights: Weights, weight_format: WeightFormat, layout: PackLayout) -> dict[str, PanelFormat]:
    """Returns the format of every matrix by its canonical name."""
    if weight_format is not WeightFormat.STORED:
        return chosen_formats(spec, weight_format, layout)
    formats = {name: _stored(weights, name) for name in matrix_shapes(spec)}
    for index in range(spec.num_layers):
        for parts in _FUSED:
            _unify(formats, [f"layers.{index}.{part}.weight" for part in parts if f"layers.{index}.{part}.weight" in formats])
    if _has_uneven_rows(spec):
        _unify(formats, list(formats))
    return formats


def _has_uneven_rows(spec: ModelSpec) -> bool:
    return any(columns % WORD for _, columns in matrix_shapes(spec).values())


def _stored(weights: Weights, name: str) -> PanelFormat:
    """Returns what holds a matrix as the checkpoint does: exactly, but that a quantized one without a group format is rounded."""
    dtype, group_format = weights[name].dtype, weights.group_format(name)
    if group_format is not None:
        return PanelFormat(Encoding.GROUPS, group_format)
    is_wide = dtype in (SourceDType.FLOAT32, SourceDType.FLOAT16)
    return PanelFormat(Encoding.FLOAT32 if is_wide else Encoding.BFLOAT16)


def _unify(formats: dict[str, PanelFormat], names: list[str]) -> None:
    """Widens matrices to float32 unless they have one encoding."""
    if len({formats[name].encoding for name in names}) > 1:
        formats.update(dict.fromkeys(names, PanelFormat(Encoding.FLOAT32)))


def mean_bits(spec: ModelSpec, formats: Mapping[str, PanelFormat]) -> float:
    """Returns the bits of a weight, over all matrices."""
    sizes = _num_weights(spec)
    return sum(formats[name].bits_per_weight * size for name, size in sizes.items()) / sum(sizes.values())


def describe_stored(spec: ModelSpec, weights: Weights) -> StoredFormats:
    """Returns in what formats the matrices of a quantized checkpoint are held where none is asked for."""
    formats = matrix_formats(spec, weights, WeightFormat.STORED, PackLayout.VNNI)
    counts: Counter[str] = Counter()
    for each, count in weights_by_format(spec, formats).items():
        counts[each.description] += count
    return StoredFormats(bits_per_weight=mean_bits(spec, formats), num_weights=dict(counts))


def weights_by_format(spec: ModelSpec, formats: Mapping[str, PanelFormat]) -> dict[PanelFormat, int]:
    """Returns how many weights each format holds, the most first."""
    counts: Counter[PanelFormat] = Counter()
    for name, size in _num_weights(spec).items():
        counts[formats[name]] += size
    return dict(counts.most_common())


def _num_weights(spec: ModelSpec) -> dict[str, int]:
    return {name: prod(shape) for name, shape in matrix_shapes(spec).items()}
