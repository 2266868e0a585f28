"""GPTQ: integers packed along the inputs, scales and zero points per group of inputs, and perhaps an order of the inputs.

    qweight  I32 [K * bits / 32, N]     a stream of codes down each column
    qzeros   I32 [G, N * bits / 32]     zero points; the first format stores them minus one
    scales   [G, N]
    g_idx    I32 [K], optional          the group of each input, where `desc_act` sorted the inputs
    weight[n, k] = (code[k, n] - zero[g, n]) * scale[g, n], rounded to the format of the scales

The arithmetic is that of GPTQModel, through which transformers reads these files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.models.config_file import Config
from quire.models.quantized.arithmetic import Grid, Scaling, unpack_codes
from quire.models.quantized.fields import (
    ONE_GROUP,
    Groups,
    ModuleNames,
    Overrides,
    groups_of,
    read_bits,
    read_group_size,
    read_names,
    read_pattern,
)
from quire.models.quantized.patterns import Steps
from quire.models.quantized.rows import IntegerRows
from quire.models.quantized.stored import FLOATS, PackedWeight, StoredTensors, order_part, refuse, size_of
from quire.models.weights import SourceDType

BITS = (2, 3, 4, 8)
_IS_MINUS_ONE = {"gptq": True, "gptq_v2": False}
_ONES = {bits: np.uint32(sum(1 << shift for shift in range(0, 32, bits))) for bits in (2, 4, 8)}

_HARMLESS = """quant_method method damp_percent damp_auto_increment static_groups true_sequential model_name_or_path
model_file_base_name model_name dataset tokenizer batch_size pad_token_id block_name_to_quantize cache_block_outputs
max_input_length model_seqlen module_name_preceding_first_block use_cuda_fp16 use_exllama disable_exllama exllama_config
exllama_version backend meta sym desc_act act_group_aware hyb_act lm_head mse gptaq pack_impl is_marlin_format offload_to_disk
offload_to_disk_path quantized_by v2 fail_safe failsafe fallback hessian vram_strategy gc_mode"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gptq:
    """Frantar et al. 2022. `is_sorted`: the inputs were, and have a group each."""

    groups: Groups
    is_minus_one: bool
    is_sorted: bool
    overrides: Overrides = ()
    excluded: ModuleNames
    label: str = "GPTQ"

    @property
    def description(self) -> str:
        return f"{self.label}, {self.groups.description}" + (", sorted inputs" if self.is_sorted else "")

    def find(self, stored: StoredTensors) -> Iterator[PackedWeight]:
        """Returns the quantized weights among the stored tensors."""
        return (self._weight(stored, module) for module in stored.modules("qweight"))

    def _weight(self, stored: StoredTensors, module: str) -> PackedWeight:
        groups = groups_of(module, self.overrides, self.groups)
        codes = stored.matrix(f"{module}.qweight", ("I32",))
        num_in, num_out = size_of(codes.shape[0] * 32, groups.bits, codes), codes.shape[1]
        grid = Grid(rows=1, columns=groups.columns(num_in))
        num_groups = grid.shape_for((num_out, num_in))[1]
        zeros_shape = (num_groups, size_of(num_out * groups.bits, 32, codes))
        zeros = stored.part(f"{module}.qzeros", ("I32",), zeros_shape)
        scales = stored.part(f"{module}.scales", FLOATS, (num_groups, num_out))
        order = order_part(stored, f"{module}.g_idx", num_in, num_groups)
        if order is None and self.is_sorted and num_groups > 1:
            refuse(f"{module}.g_idx", "is missing, though quantization_config.desc_act says that the inputs were sorted")
        parts = (codes, zeros, scales) if order is None else (codes, zeros, scales, order)

        def open_rows() -> IntegerRows:
            zero_points = self._zero_points(stored.array(zeros), groups.bits, num_out)
            columns = None if order is None else stored.array(order)
            if columns is not None and np.array_equal(columns, np.arange(num_in) // grid.columns):
                columns = None
            sorted_grid = Grid(rows=1, columns=grid.columns, group_of_column=columns)
            scaling = Scaling(grid=sorted_grid, scales=stored.floats(scales).to_float32().T, zeros=zero_points.T)
            words = stored.array(codes)
            return IntegerRows(
                read=lambda start, stop: unpack_codes(words[:, start:stop].T, groups.bits, num_in),
                scaling=scaling,
                bits=groups.bits,
                num_columns=num_in,
                dtype=SourceDType(scales.dtype),
            )

        return PackedWeight(
            name=f"{module}.weight",
            num_rows=num_out,
            num_columns=num_in,
            dtype=SourceDType(scales.dtype),
            parts=parts,
            open=open_rows,
        )

    def _zero_points(self, words: npt.NDArray[Any], bits: int, num_out: int) -> npt.NDArray[np.uint8]:
        """Returns zero points [G, N]. One is added to the packed words, so the largest code carries into its neighbor."""
        if not self.is_minus_one:
            return unpack_codes(words, bits, num_out)
        if bits in _ONES:
            return unpack_codes(words.view(np.uint32) + _ONES[bits], bits, num_out)
        return (unpack_codes(words, bits, num_out) + np.uint8(1)) & np.uint8((1 << bits) - 1)


def read_gptq(section: Config) -> Gptq:
    """Returns the method as `quantization_config` describes it."""
    section.ignore(_HARMLESS)
    section.require("pack_dtype", "int32")
    section.require("is_marlin_format", False)
    section.ignore("modules_in_block_to_quantize")
    groups = Groups(read_bits(section, "bits", BITS), read_group_size(section, default=128))
    formats = [section.choice(name, _IS_MINUS_ONE) for name in ("checkpoint_format", "format") if section.has(name)]
    if len(set(formats)) > 1:
        section.refuse("format", "differs from checkpoint_format")
    is_sorted = section.flag("desc_act", default=False)
    section.flag("sym", default=True)
    return Gptq(
        groups=groups,
        is_minus_one=formats[0] if formats else True,
        is_sorted=is_sorted,
        overrides=_read_dynamic(section, groups),
        excluded=read_names(section, "modules_to_not_convert"),
    )


def _read_dynamic(section: Config, groups: Groups) -> Overrides:
    """Returns the rules of `dynamic`: "-:pattern" for modules that stay as they are, "+:pattern" or "pattern" for others."""
    rules = section.section("dynamic")
    if rules is None:
        return ()
    steps = Steps()
    return tuple(_read_rule(rules, name, groups, steps) for name in rules.names)


def _read_rule(rules: Config, name: str, groups: Groups, steps: Steps) -> tuple[Callable[[str], bool], Groups | None]:
    matches = read_pattern(rules, name, name[2:] if name[:2] in ("-:", "+:") else name, steps).matches_start
    if name.startswith("-:"):
        rules.ignore(name)
        return matches, None
    return matches, read_override(rules, name, groups)


def read_override(rules: Config, name: str, groups: Groups) -> Groups:
    """Returns the bits and group size of one rule, where they differ from the general ones."""
    rule = rules.section(name)
    if rule is None:
        return groups
    rule.ignore("sym desc_act mse damp_percent damp_auto_increment static_groups")
    size = read_group_size(rule, default=ONE_GROUP if groups.size is None else groups.size)
    return Groups(read_bits(rule, "bits", BITS, default=groups.bits), size)
