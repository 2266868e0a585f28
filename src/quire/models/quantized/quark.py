"""AMD Quark's MXFP4: `weight` U8 [N, K / 2] and `weight_scale` U8 [N, K / 32]; its other formats are refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quire.models.config_file import Config
from quire.models.quantized.fields import ModuleNames, read_names, warn_of_activations
from quire.models.quantized.mxfp4 import GROUP, packed_matrix
from quire.models.quantized.stored import PackedWeight, StoredTensors

_HARMLESS = """quant_method algo_config export quant_mode version quantization_status softmax_quant_spec kv_cache_group
min_kv_scale pack_method weight_format weight_merge_groups"""
_WEIGHT_HARMLESS = """observer_cls round_method scale_calculation_mode scale_type is_scale_quant symmetric zero_point_type
mx_element_dtype qat_spec"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quark:
    """Weights in the one format that is read."""

    excluded: ModuleNames
    description: str = "Quark, MXFP4, groups of 32"

    def find(self, stored: StoredTensors) -> Iterator[PackedWeight]:
        """Returns the quantized weights among the stored tensors."""
        modules = stored.modules("weight_scale")
        return (
            packed_matrix(stored, module, "weight")
            for module in modules
            if f"{module}.weight" in stored and stored.entry(f"{module}.weight").dtype == "U8"
        )


def read_quark(section: Config) -> Quark:
    """Returns the method as `quantization_config` describes it."""
    section.ignore(_HARMLESS)
    excluded = read_names(section, "exclude")
    section.require("layer_quant_config", {})
    section.require("layer_type_quant_config", {})
    section.require("kv_cache_post_rope", False)
    section.ignore("kv_cache_quant_config")
    general = section.section("global_quant_config")
    weight = None if general is None else general.section("weight")
    if general is None or weight is None:
        section.refuse("global_quant_config", "must say how weights are quantized")
    for name in ("input_tensors", "output_tensors"):
        if general.has(name):
            warn_of_activations(general, name)
    general.ignore("target_device")
    general.require("bias", {})
    _check_weight(weight)
    return Quark(excluded=excluded)


def _check_weight(weight: Config) -> None:
    weight.ignore(_WEIGHT_HARMLESS)
    weight.choice("dtype", {"fp4": True})
    weight.choice("qscheme", {"per_group": True})
    weight.require("group_size", GROUP)
    weight.require("scale_format", "e8m0")
    weight.require("ch_axis", -1, 1)
    weight.require("is_dynamic", False)
