"""AutoRound: better rounding, stored in the layouts of GPTQ or AWQ; `packing_format` says which.

The files of "auto_round" and "auto_round:gptqmodel" hold zero points as they are, "auto_round:auto_gptq" minus one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from operator import eq

from quire.models.config_file import Config
from quire.models.quantized.awq import Awq
from quire.models.quantized.fields import (
    Groups,
    Overrides,
    read_bits,
    read_group_size,
    read_names,
    read_pattern,
    warn_of_activations,
)
from quire.models.quantized.gptq import BITS, Gptq, read_override
from quire.models.quantized.patterns import Steps

_PLAIN_NAME = re.compile(r"[\w.\-]+")
_LABEL = "AutoRound"
_IS_MINUS_ONE = {"auto_round:auto_gptq": True, "auto_round:gptqmodel": False, "auto_round": False, "auto_round:auto_awq": None}
_FLOAT_BITS = (16, 32)
_HARMLESS = """quant_method autoround_version iters lr minmax_lr seqlen nsamples batch_size gradient_accumulate_steps scale_dtype
low_gpu_mem_usage enable_minmax_tuning enable_norm_bias_tuning enable_quanted_input quant_block_list block_name_to_quantize
to_quant_block_names dataset amp not_use_best_mse dynamic_max_gap seed model_free damp_percent true_sequential desc_act lm_head
quant_lm_head sampler super_bits super_group_size backend_version"""
_ACTIVATIONS = "act_bits act_data_type act_group_size act_sym act_dynamic"


def read_auto_round(section: Config) -> Gptq | Awq:
    """Returns the layout that `quantization_config` describes."""
    section.ignore(_HARMLESS)
    section.require("data_type", "int")
    excluded = read_names(section, "modules_to_not_convert")
    if section.has("act_bits") and section.size("act_bits", limit=64) not in _FLOAT_BITS:
        warn_of_activations(section, "act_bits")
    section.ignore(_ACTIVATIONS)
    section.flag("sym", default=True)
    groups = Groups(read_bits(section, "bits", BITS), read_group_size(section))
    is_minus_one = section.choice("packing_format", _IS_MINUS_ONE)
    overrides = _read_extra(section, groups)
    if is_minus_one is not None:
        return Gptq(
            groups=groups, is_minus_one=is_minus_one, is_sorted=False, overrides=overrides, excluded=excluded, label=_LABEL
        )
    read_bits(section, "bits", (4,))
    if any(override not in (None, groups) for _, override in overrides):
        section.refuse("extra_config", "changes bits or groups of single modules, which the AWQ layout does not allow")
    return Awq(groups=groups, overrides=overrides, excluded=excluded, label=_LABEL)


def _read_extra(section: Config, groups: Groups) -> Overrides:
    """Returns the rules of `extra_config`: modules by name first, then by patterns that match anywhere in a name."""
    extra = section.section("extra_config")
    if extra is None:
        return ()
    names = sorted((name for name in extra.names if extra.has(name)), key=_is_pattern)
    steps = Steps()
    return tuple((_matcher(extra, name, steps), _read_rule(extra, name, groups)) for name in names)


def _read_rule(extra: Config, name: str, groups: Groups) -> Groups | None:
    rule = extra.section(name)
    if rule is None:
        return groups
    rule.ignore(_ACTIVATIONS)
    rule.ignore("super_bits super_group_size scale_dtype in_blocks sym")
    if rule.has("bits") and rule.size("bits", limit=64) in _FLOAT_BITS:
        rule.ignore("group_size data_type")
        return None
    rule.require("data_type", "int")
    return read_override(extra, name, groups)


def _is_pattern(name: str) -> bool:
    return _PLAIN_NAME.fullmatch(name) is None


def _matcher(extra: Config, name: str, steps: Steps) -> Callable[[str], bool]:
    return read_pattern(extra, name, name, steps).matches_anywhere if _is_pattern(name) else partial(eq, name)
