"""`fix_mistral_regex` of tokenizer_config.json: repairs how older files of Mistral's models split text, as transformers does.

They have more than 100,000 tokens, and a config.json of one of Mistral's model types that transformers 4 wrote. In all others the
field changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import Regex, pre_tokenizers

_MIN_TOKENS = 100_000
_MODEL_TYPES = frozenset({None, "mistral", "mistral3", "voxtral", "ministral", "pixtral"})
_REPAIRED = (5, 0, 0)
_VERSION = re.compile(r"v?(\d{1,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?(.*)", re.DOTALL)
_CANDIDATE = re.compile(r"[._-]?(a|b|c|rc|alpha|beta|pre|dev)")
SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Mistral's tokenizer of 2024, Tekken, splits a text."""


def needs_repair(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one whose tokenizer the repair is for. Without a config.json nothing says so."""
    version = config.get("transformers_version")
    return bool(config) and config.get("model_type") in _MODEL_TYPES and (not version or _is_older(str(version)))


def repair(backend: tokenizers.Tokenizer) -> None:
    """Replaces the rule by which a large tokenizer splits text; leaves a small one as it is."""
    splitter = backend.pre_tokenizer
    if backend.get_vocab_size() <= _MIN_TOKENS or splitter is None:
        return
    split = pre_tokenizers.Split(pattern=Regex(SPLIT), behavior="isolated")
    if isinstance(splitter, pre_tokenizers.Sequence):
        splitter[0] = split
        return
    if isinstance(splitter, pre_tokenizers.Metaspace):
        splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, splitter])


def _is_older(version: str) -> bool:
    """Whether a version comes before 5.0.0, as its candidates do; an unreadable one does."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return True
    release = tuple(int(part or 0) for part in match.groups()[:3])
    return release < _REPAIRED or (release == _REPAIRED and _CANDIDATE.match(match[4]) is not None)
