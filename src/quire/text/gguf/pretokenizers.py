r"""How byte-level BPE of a GGUF file cuts a text before it merges: by `tokenizer.ggml.pre`, a name for the original's pipeline.

A wrong pipeline changes tokens without an error, so a name that is not listed here is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tokenizers import Regex, normalizers, pre_tokenizers

from quire.text import mistral_regex

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_WITH_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

_GPT4 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_GPT4O = rf"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_REST_WITH_SLASH}"
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The steps before merging. `patterns` cut one after the other; none means GPT-2's own, after single digits if asked.

    `ignores_merges` takes a piece that is a token as it stands; `adds_bos` is what holds where the file does not say.
    """

    patterns: tuple[str, ...] = ()
    has_single_digits: bool = False
    is_composed: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False

    @property
    def normalizer(self) -> normalizers.Normalizer | None:
        return normalizers.NFC() if self.is_composed else None

    @property
    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        steps: list[pre_tokenizers.PreTokenizer] = [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in self.patterns
        ]
        if self.has_single_digits:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not self.patterns)])


_LLAMA3 = Pipeline(patterns=(_GPT4,), ignores_merges=True, adds_bos=True)
_GPT2 = Pipeline()
_DIGITS = Pipeline(has_single_digits=True)

PIPELINES: Mapping[str, Pipeline] = MappingProxyType(
    dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA3)
    | dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt"), _GPT2)
    | dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS)
    | dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), Pipeline(patterns=(_GPT4,)))
    | dict.fromkeys(("gpt-4o", "llama4"), Pipeline(patterns=(_GPT4O,)))
    | {
        "qwen2": Pipeline(patterns=(_QWEN,), is_composed=True),
        "deepseek-r1-qwen": Pipeline(patterns=(_QWEN,)),
        "tekken": Pipeline(patterns=(mistral_regex.SPLIT,), ignores_merges=True, adds_bos=True),
        "deepseek-v3": Pipeline(patterns=_DEEPSEEK_V3),
        "deepseek-coder": Pipeline(patterns=_DEEPSEEK_CODER),
    }
)
"""Pipelines by the name that converters give them."""
