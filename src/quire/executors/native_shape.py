"""A model's spec, and the formats of its matrices, in the core's words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from quire.executors.core_types import Core
from quire.executors.packing import Encoding, PanelFormat
from quire.models.group_format import ScaleType
from quire.models.spec import DenseFfn, FfnKind, LayerSpec, ModelSpec, RopeSpec

if TYPE_CHECKING:
    from quire.native import _core

_UNBOUNDED_WINDOW = 2**31 - 1
_SIZES = ("hidden_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size", "max_context", "norm_eps")
_ENCODINGS = MappingProxyType(
    {Encoding.FLOAT32: "F32", Encoding.BFLOAT16: "BF16", Encoding.GROUPS: "GROUPS"}
    | {Encoding.ROTATED: "ROTATED", Encoding.INT8_AMX: "INT8_AMX"}
)
_SCALES = MappingProxyType({ScaleType.FLOAT16: "F16", ScaleType.BFLOAT16: "BF16", ScaleType.TWO_LEVEL: "TWO_LEVEL"})
_SWITCHES = ("is_head_tied", "has_learned_positions", "has_qkv_bias", "has_attention_out_bias")


def shape_of(core: Core, spec: ModelSpec) -> _core.ModelShape:
    """Returns the fields of `spec` that the forward pass reads."""
    shape = core.ModelShape()
    for field in (*_SIZES, *_SWITCHES):
        setattr(shape, field, getattr(spec, field))
    shape.attention_scale = spec.attention_scale
    shape.qk_norm = core.QKNorm[spec.qk_norm.name]
    shape.norm = core.NormKind[spec.norm.name]
    shape.norm_placement = core.NormPlacement[spec.norm_placement.name]
    shape.embedding_scale = 1.0 if spec.embedding_scale is None else spec.embedding_scale
    shape.attention_softcap = spec.attention_softcap or 0.0
    shape.logit_softcap = spec.logit_softcap or 0.0
    ropes = list(dict.fromkeys(layer.rope for layer in spec.layers if layer.rope is not None))
    shape.ropes = [_rope_of(core, rope) for rope in ropes]
    shape.layers = [_layer_of(core, layer, ropes) for layer in spec.layers]
    return shape


def _rope_of(core: Core, rope: RopeSpec) -> _core.Rope:
    result = core.Rope()
    result.inv_freq = list(rope.inv_freq)
    result.attention_factor = rope.attention_factor
    return result


def _layer_of(core: Core, layer: LayerSpec, ropes: list[RopeSpec]) -> _core.LayerShape:
    result = core.LayerShape()
    result.rope = None if layer.rope is None else ropes.index(layer.rope)
    result.window = layer.sliding_window or _UNBOUNDED_WINDOW
    result.ffn = _ffn_of(core, layer.ffn)
    return result


def _ffn_of(core: Core, ffn: DenseFfn) -> _core.FfnShape:
    result = core.FfnShape()
    result.is_gated = ffn.kind is FfnKind.GATED
    result.activation = core.Activation[ffn.activation.name]
    result.size, result.has_bias = ffn.size, ffn.has_bias
    return result


def panel_formats(core: Core, formats: Mapping[str, PanelFormat]) -> dict[str, _core.PanelFormat]:
    """Returns formats by the names of their matrices."""
    known = {each: panel_format(core, each) for each in set(formats.values())}
    return {name: known[each] for name, each in formats.items()}


def panel_format(core: Core, given: PanelFormat) -> _core.PanelFormat:
    """Returns one format."""
    encoding, groups = core.Encoding[_ENCODINGS[given.encoding]], given.groups
    if groups is None:
        return core.PanelFormat(encoding)
    scales, offset = core.ScaleType[_SCALES[groups.scales]], core.Offset[groups.offset.name]
    return core.PanelFormat(encoding, core.GroupFormat(groups.bits, groups.group, scales, offset))
