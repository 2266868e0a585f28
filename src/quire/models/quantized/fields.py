"""Fields that several quantization methods share, read from `quantization_config` in `config.json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quire.models.config_file import Config
from quire.models.quantized.patterns import ModulePattern, Steps, parse_pattern
from quire.models.quantized.stored import refuse

Overrides = tuple[tuple[Callable[[str], bool], "Groups | None"], ...]
"""Whether a rule holds for a module of this name, and how it is then quantized; None: not. The first that holds counts."""

MAX_GROUP = 1 << 20
ONE_GROUP = -1
DENIED = "is quantized, which quantization_config denies for this module"


@dataclass(frozen=True, slots=True)
class Groups:
    """Integers of `bits` bits whose scales are shared by `size` inputs of an output; None: by all of them."""

    bits: int
    size: int | None

    @property
    def description(self) -> str:
        """The same as text."""
        return f"{self.bits} bits, {self.sharing}"

    @property
    def sharing(self) -> str:
        """Which inputs share a scale, as text."""
        return "a scale per output" if self.size is None else f"groups of {self.size}"

    def columns(self, num_in: int) -> int:
        """Returns the inputs that share a scale."""
        return num_in if self.size is None else self.size


def groups_of(module: str, overrides: Overrides, general: Groups) -> Groups:
    """Returns how a module is quantized; raises CheckpointError if a rule says that it is not."""
    groups = next((groups for holds, groups in overrides if holds(module)), general)
    if groups is None:
        refuse(f"{module}.weight", DENIED)
    return groups


def read_bits(section: Config, name: str, known: tuple[int, ...], default: int | None = None) -> int:
    """Returns a number of bits that is one of `known`."""
    bits = section.size(name, limit=64, default=default)
    if bits not in known:
        section.refuse(name, "is a number of bits that Quire does not read", ", ".join(map(str, known)))
    return bits


def read_group_size(section: Config, name: str = "group_size", default: int | None = None) -> int | None:
    """Returns the inputs per scale, or None for -1: all of an output's."""
    size = section.size(name, low=ONE_GROUP, limit=MAX_GROUP, default=default)
    if size == 0:
        section.refuse(name, "must be a number of inputs", f"1 to {MAX_GROUP}, or -1 for all")
    return None if size == ONE_GROUP else size


def read_pattern(section: Config, name: str, text: str, steps: Steps) -> ModulePattern:
    """Returns a regular expression that a field holds, or that is its name; all of a config share the `steps` of matching."""
    try:
        return parse_pattern(text, steps)
    except ValueError as error:
        section.refuse(name, f"holds a pattern that {error}")


@dataclass(frozen=True, slots=True)
class ModuleNames:
    """Modules by whole parts of their paths: "mlp.gate" names "layers.0.mlp.gate" and all within, but no "mlp.gate_proj".

    Libraries compare more loosely, each in its own way: as a substring, a prefix, a pattern. A module that only some of them
    would leave out is not named.
    """

    names: tuple[str, ...] = ()

    def __contains__(self, module: str) -> bool:
        return any(f".{name}." in f".{module}." for name in self.names)


def read_names(section: Config, *fields: str) -> ModuleNames:
    """Returns the modules that stay unquantized, as lists in one or several fields say."""
    return ModuleNames(tuple(name for field in fields for name in section.texts(field) or ()))


def warn_of_activations(section: Config, name: str) -> None:
    """Accepts a field about quantized activations, which would change results, and says that it is ignored."""
    section.warn(name, "is ignored: Quire reads the quantized weights and computes with unquantized activations")


def warn_of_cache(section: Config, name: str) -> None:
    """Accepts a field about a quantized cache, if it is there, and says that it is ignored."""
    if section.has(name):
        section.warn(name, "is ignored: kv_format chooses how keys and values are kept")
