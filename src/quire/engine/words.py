"""The words that options take, against those that other engines use for the same thing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from types import MappingProxyType

_OTHER_WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "dtype": dict.fromkeys(("half", "float16", "fp16", "f16"), "float32, which holds every float16 weight exactly")
        | dict.fromkeys(("float", "fp32", "f32", "single", "double", "float64"), "float32")
        | dict.fromkeys(("bf16", "bfloat"), "bfloat16"),
        "quantize": dict.fromkeys(("8bit", "8-bit", "q8_0", "fp8", "w8a8", "bitsandbytes", "torchao"), "int8")
        | dict.fromkeys(
            ("4bit", "4-bit", "q4_0", "q4_k_m", "nf4", "awq", "gptq"), "int4, made from unquantized weights on loading"
        )
        | dict.fromkeys(("off", "no"), "none"),
        "kv_format": dict.fromkeys(("half", "float16", "fp16", "f16", "bf16"), "bfloat16")
        | dict.fromkeys(("float", "fp32", "f32"), "float32")
        | dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2", "q8_0", "8bit", "8-bit", "u8"), "int8")
        | dict.fromkeys(("fp4", "nvfp4", "nf4", "q4_0", "q4_1", "4bit", "4-bit", "u4"), "int4"),
        "kv_cache": {"on": "paged", "none": "off", "no": "off"},
        "prefix_cache": {"true": "on", "yes": "on", "false": "off", "no": "off"},
        "executor": dict.fromkeys(("cpu", "c++", "cpp"), "native") | dict.fromkeys(("cuda", "gpu", "pytorch", "hf"), "torch"),
    }
)
"""What other engines say where we have a word of our own, by option."""


def word_advice(name: str, word: str, choices: Collection[str]) -> str:
    """Returns the next step for a word that an option does not know: the one that is meant, if it is known, and all."""
    plain = word.lower().removeprefix("torch.")
    meant = _OTHER_WORDS.get(name, {}).get(plain) or next(iter(get_close_matches(plain, choices, n=1, cutoff=0.75)), None)
    every = f"Use one of: {', '.join(choices)}."
    return every if meant is None else f"Write {meant}. {every}"
