"""What `quantization_config` of compressed-tensors says: which modules have which weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quire.models.config_file import Config
from quire.models.quantized.fields import Groups, read_bits, read_group_size, read_pattern, warn_of_activations, warn_of_cache
from quire.models.quantized.fp8 import read_block
from quire.models.quantized.patterns import ModulePattern, Steps

_FORMATS: Mapping[str, tuple[int, ...]] = {
    "pack-quantized": (2, 4, 8),
    "int-quantized": (4, 8),
    "float-quantized": (8,),
    "naive-quantized": (4, 8),
    "mxfp4-pack-quantized": (4,),
}
"""Bits of the weights in the formats that are read. Integers of 4 bits that are not packed take a byte each."""

_SEVERAL = "mixed-precision"
_HARMLESS = "quant_method quantization_status global_compression_ratio version config_version moe_sparsity_config"
_WEIGHT_HARMLESS = "observer observer_kwargs scale_dtype zp_dtype"
_IS_SORTED: Mapping[str, bool] = {"group": True, "dynamic": True, "weight": False, "static": False}
_REGEX = "re:"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightScheme:
    """One kind of weight: a scale per `group_size` inputs, per `block` of rows and columns, or per output or tensor.

    With `is_sorted` the inputs of a group do not lie side by side.
    """

    bits: int
    is_float: bool
    is_symmetric: bool
    group_size: int | None
    block: tuple[int, int] | None
    is_sorted: bool

    @property
    def description(self) -> str:
        """The same as text."""
        if self.is_float and self.bits == 4:
            return "MXFP4, groups of 32"
        kind = "FP8" if self.is_float else f"{self.bits} bits"
        if self.block is not None:
            return f"{kind}, blocks of {self.block[0]} x {self.block[1]}"
        scales = "a scale per output or tensor" if self.group_size is None else Groups(self.bits, self.group_size).sharing
        return f"{kind}, {scales}" + ("" if self.is_symmetric else ", zero points")


@dataclass(frozen=True, slots=True)
class Target:
    """The modules that an entry of a list names: one of them, those that a pattern matches, or a class of layers."""

    text: str
    pattern: ModulePattern | None

    def matches(self, module: str) -> bool:
        """Whether the entry names the module. Embeddings are the only layers that are not of class Linear."""
        if self.pattern is not None:
            return self.pattern.matches_start(module)
        return self.text in (module, "Embedding" if module.endswith("embed_tokens") else "Linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Targets and weights of all groups, and the modules that are left as they are."""

    groups: tuple[tuple[tuple[Target, ...], WeightScheme | None], ...]
    ignored: tuple[Target, ...]

    @property
    def description(self) -> str:
        """The kinds of weights as text."""
        return "; ".join(dict.fromkeys(weights.description for _, weights in self.groups if weights is not None))

    def weights_of(self, module: str) -> WeightScheme | None:
        """Returns how a module's weights are quantized: exact names come before patterns, and those before classes."""
        if any(target.matches(module) for target in self.ignored):
            return None
        found = [
            (target.text == module, target.pattern is not None, weights)
            for targets, weights in self.groups
            for target in targets
            if target.matches(module)
        ]
        return max(found, key=lambda each: each[:2])[2] if found else None


def read_scheme(section: Config) -> Scheme:
    """Returns what the section says; refuses sparsity, rotations and formats that Quire does not read."""
    section.ignore(_HARMLESS)
    general = _read_format(section, "pack-quantized" if not section.has("format") else None)
    sparsity, transform = section.section("sparsity_config"), section.section("transform_config")
    if sparsity is not None:
        sparsity.require("format", "dense")
        sparsity.ignore("global_sparsity sparsity_structure registry_requires_subclass targets ignore")
    if transform is not None:
        transform.require("config_groups", {})
    warn_of_cache(section, "kv_cache_scheme")
    groups = section.section("config_groups")
    if groups is None or not groups.names:
        section.refuse("config_groups", "must say which layers are quantized and how")
    steps = Steps()
    return Scheme(
        groups=tuple(_read_group(groups, name, general, steps) for name in groups.names),
        ignored=_read_targets(section, "ignore", steps),
    )


def _read_group(groups: Config, name: str, general: str, steps: Steps) -> tuple[tuple[Target, ...], WeightScheme | None]:
    group = groups.section(name)
    if group is None:
        groups.refuse(name, "must be a JSON object")
    for field in ("input_activations", "output_activations"):
        if group.has(field):
            warn_of_activations(group, field)
    targets = _read_targets(group, "targets", steps)
    storage = _read_format(group, general)
    weights = group.section("weights")
    if weights is None:
        return targets, None
    if storage == _SEVERAL:
        group.refuse("format", "must say how this group is stored, for the whole is of mixed precision", ", ".join(_FORMATS))
    return targets, _read_weights(weights, storage)


def _read_format(section: Config, default: str | None) -> str:
    known = {name: name for name in (*_FORMATS, _SEVERAL)}
    return default if default is not None and not section.has("format") else section.choice("format", known)


def _read_weights(weights: Config, storage: str) -> WeightScheme:
    weights.ignore(_WEIGHT_HARMLESS)
    weights.require("dynamic", False)
    is_float = weights.choice("type", {"int": False, "float": True}, "int")
    bits = read_bits(weights, "num_bits", _FORMATS[storage], default=8)
    if is_float != (storage in ("float-quantized", "mxfp4-pack-quantized")) and storage != "naive-quantized":
        weights.refuse("type", f"does not go with the format {storage}", "int or float, as the format says")
    if is_float and storage == "naive-quantized" and bits != 8:
        weights.refuse("num_bits", "is a number of bits that Quire does not read", "8 for floating point")
    strategy = weights.text("strategy")
    size = read_group_size(weights) if weights.has("group_size") else None
    if strategy not in (None, "tensor", "channel", "group", "block"):
        weights.refuse("strategy", "has a value that Quire does not honor", "tensor, channel, group, block")
    if (strategy == "group") != (size is not None) and strategy is not None:
        weights.refuse("group_size", "does not go with the strategy", f"strategy {strategy}")
    block = _read_block(weights, strategy)
    if storage == "mxfp4-pack-quantized" and size != 32:
        weights.refuse("group_size", "is not that of MXFP4", 32)
    is_symmetric = weights.flag("symmetric", default=True)
    return WeightScheme(
        bits=bits,
        is_float=is_float,
        is_symmetric=is_symmetric,
        group_size=size,
        block=block,
        is_sorted=_read_sorted(weights) and size is not None,
    )


def _read_sorted(weights: Config) -> bool:
    """Returns whether inputs were sorted into groups; sorting them only while rounding leaves no trace in the file."""
    if weights.is_bool("actorder"):
        return weights.flag("actorder")
    return weights.choice("actorder", _IS_SORTED) if weights.has("actorder") else False


def _read_block(weights: Config, strategy: str | None) -> tuple[int, int] | None:
    block = read_block(weights, "block_structure")
    if (strategy == "block") != (block is not None):
        weights.refuse("block_structure", "does not go with the strategy", "rows and columns with strategy block alone")
    return block


def _read_targets(section: Config, name: str, steps: Steps) -> tuple[Target, ...]:
    return tuple(_read_target(section, name, text, steps) for text in section.texts(name) or ())


def _read_target(section: Config, name: str, text: str, steps: Steps) -> Target:
    is_pattern = text.startswith(_REGEX)
    return Target(text, read_pattern(section, name, text.removeprefix(_REGEX), steps) if is_pattern else None)
