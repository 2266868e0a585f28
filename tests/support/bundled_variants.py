"""Copies of the bundled model that differ in a template or in what their special tokens are called."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from quire.models import bundled

_TURNS = ("<|system|>", "<|user|>", "<|assistant|>")
BEYOND = "<|beyond|>"
GAP = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def with_gap_tokens(directory: Path) -> Path:
    """Writes a model whose tokens of turns are those around a gap."""
    _copy(directory)
    for file in directory.glob("*.json"):
        text = file.read_text()
        for turn, gap in zip(_TURNS, GAP, strict=True):
            text = text.replace(turn, gap)
        file.write_text(text)
    return directory


def with_template(directory: Path, template: str) -> Path:
    """Writes a model with another chat template."""
    _copy(directory)
    (directory / "chat_template.jinja").write_text(template)
    return directory


def with_token_beyond_logits(directory: Path) -> Path:
    """Writes a model whose tokenizer has one token more than the logits are wide: for padding, which others need."""
    _copy(directory)
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    width = json.loads((directory / "config.json").read_text())["vocab_size"]
    content["added_tokens"].append({"id": width, "content": BEYOND, **flags, "special": True})
    path.write_text(json.dumps(content))
    (directory / "tokenizer_config.json").write_text(json.dumps({"pad_token": BEYOND, "eos_token": "<|end|>"}))
    return directory


def _copy(directory: Path) -> None:
    own = Path(bundled.__file__).parent
    for file in own.iterdir():
        if file.suffix in (".json", ".jinja", ".safetensors"):
            shutil.copy(file, directory / file.name)
