"""Copies of the bundled model that differ in a template or in what their special tokens are called."""

from __future__ import annotations

import shutil
from pathlib import Path

from quire.models import bundled

_TURNS = ("<|system|>", "<|user|>", "<|assistant|>")
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


def _copy(directory: Path) -> None:
    own = Path(bundled.__file__).parent
    for file in own.iterdir():
        if file.suffix in (".json", ".jinja", ".safetensors"):
            shutil.copy(file, directory / file.name)
