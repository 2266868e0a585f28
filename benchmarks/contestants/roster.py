"""The contestants, their number formats, and which of them are compared with each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from types import MappingProxyType

from .protocol import Contestant, ContestantError, Entry


class Precision(Enum):
    """Formats are compared within a precision: about as many bits per weight.

    An engine that computes the 16-bit checkpoint in float32, because its processor is faster so, competes with 16 bits.
    """

    BF16 = "16 bits a weight"
    INT8 = "8 bits a weight"
    INT4 = "4 bits a weight"

    @property
    def bytes_per_weight(self) -> float:
        return {Precision.BF16: 2.0, Precision.INT8: 1.0, Precision.INT4: 0.5}[self]


OURS = "quire"
_HOMES = MappingProxyType(
    {
        OURS: "quire_engine",
        "llama.cpp": "llamacpp_engine",
        "llama.cpp-no-flash": "llamacpp_engine",
        "vllm": "vllm_engine",
        "openvino": "openvino_engine",
        "transformers": "transformers_engine",
    }
)
_FORMATS = MappingProxyType(
    {
        Precision.BF16: ("bfloat16", "float32", "BF16", "F16"),
        Precision.INT8: ("int8", "Q8_0"),
        Precision.INT4: ("int4", "Q4_0", "Q4_0-default", "Q4_K_M"),
    }
)
_PRECISIONS = MappingProxyType({name: precision for precision, names in _FORMATS.items() for name in names})


@dataclass(frozen=True, slots=True)
class Name:
    """An engine and a number format: `llama.cpp:Q8_0`."""

    engine: str
    number_format: str

    def __str__(self) -> str:
        return f"{self.engine}:{self.number_format}"

    @property
    def precision(self) -> Precision:
        return _PRECISIONS[self.number_format]

    @property
    def is_ours(self) -> bool:
        return self.engine == OURS


def parse_name(text: str) -> Name:
    """Returns the name in `engine:format`; raises ValueError that lists what there is."""
    engine, _, number_format = text.partition(":")
    if engine not in _HOMES or number_format not in _PRECISIONS:
        raise ValueError(f"{text!r} is none of engine:format with {', '.join(_HOMES)} and {', '.join(_PRECISIONS)}")
    return Name(engine, number_format)


ROSTER = tuple(
    parse_name(text)
    for text in (
        "quire:bfloat16",
        "llama.cpp:BF16",
        "vllm:bfloat16",
        "vllm:float32",
        "openvino:bfloat16",
        "openvino:float32",
        "transformers:bfloat16",
        "transformers:float32",
        "quire:int8",
        "llama.cpp:Q8_0",
        "openvino:int8",
        "quire:int4",
        "llama.cpp:Q4_0",
        "llama.cpp:Q4_K_M",
        "openvino:int4",
    )
)


def parse_names(text: str) -> tuple[Name, ...]:
    """Returns the name in `engine:format`, or all names of the roster with this `engine`; raises ValueError."""
    return tuple(name for name in ROSTER if name.engine == text) or (parse_name(text),)


def opener(engine: str) -> Callable[[Entry], Contestant]:
    """Returns what opens a contestant of this engine; raises ContestantError where its library cannot be imported."""
    try:
        module = import_module(f".{_HOMES[engine]}", __package__)
    except ImportError as error:
        raise ContestantError(f"cannot be imported: {error}") from error
    open_contestant: Callable[[Entry], Contestant] = module.open_contestant
    return open_contestant
