"""Makes a tokenizer.json put a space before a text, or not, as add_prefix_space of tokenizer_config.json asks.

byte level      {"type": "ByteLevel", "add_prefix_space": ...} among the pre-tokenizers
SentencePiece   {"type": "Metaspace", "prepend_scheme": ...} there, or {"type": "Prepend"} among the normalizers; the
                decoder then drops the space again: {"type": "Strip", "start": 1}, or Metaspace
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_SPACE = "\u2581"
_LISTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


def with_prefix_space(content: bytes, wanted: bool) -> bytes:
    """Returns the content of a tokenizer.json that is read without errors, with the space before a text as `wanted`."""
    description = json.loads(content)
    steps = list(_steps(description, "pre_tokenizer"))
    has_byte_level = any(step["type"] == "ByteLevel" for step in steps)
    has_metaspace = any(step["type"] == "Metaspace" for step in steps)
    for step in (*steps, *_steps(description, "decoder")):
        if step["type"] == "ByteLevel":
            step["add_prefix_space"] = wanted
        elif step["type"] == "Metaspace" and (step.get("prepend_scheme") == "never") == wanted:
            step.pop("add_prefix_space", None)
            step["prepend_scheme"] = "first" if wanted else "never"
    if not has_byte_level:
        _prepend(description, wanted and not has_metaspace)
        _strip(description, wanted)
    return json.dumps(description).encode()


def _prepend(description: dict[str, Any], wanted: bool) -> None:
    steps = list(_steps(description, "normalizer"))
    others = [step for step in steps if step["type"] != "Prepend"]
    if (len(others) < len(steps)) != wanted:
        new = [{"type": "Prepend", "prepend": _SPACE}, *others] if wanted else others
        description["normalizer"] = {"type": "Sequence", "normalizers": new}


def _strip(description: dict[str, Any], wanted: bool) -> None:
    steps = list(_steps(description, "decoder"))
    others = [step for step in steps if step["type"] != "Strip"]
    if steps and any(step["type"] == "Fuse" for step in steps) and (len(others) < len(steps)) != wanted:
        new = [*others, {"type": "Strip", "content": " ", "start": 1, "stop": 0}] if wanted else others
        description["decoder"] = {"type": "Sequence", "decoders": new}


def _steps(description: dict[str, Any], part: str) -> Iterator[dict[str, Any]]:
    """Yields the steps of a part of the pipeline, those of nested sequences one by one."""
    pending = [description.get(part)]
    while pending:
        step = pending.pop(0)
        if step is not None and step["type"] == "Sequence":
            pending = [*step[_LISTS[part]], *pending]
        elif step is not None:
            yield step
