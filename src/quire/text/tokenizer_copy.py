"""Gives a new model directory the tokenizer of another model: its files, or what a GGUF file's metadata makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from quire.models.gguf.container import open_gguf_file
from quire.models.gguf.splits import is_gguf
from quire.text.gguf.tokenizer import load_gguf_backend

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
)
GENERATION = "generation_config.json"
_IDS = ("bos_token", "pad_token")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies what a model directory's tokenizer and chat templates are read from."""
    for name in tokenizer_files(source):
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, target / name)


def tokenizer_files(directory: Path) -> list[str]:
    """Returns paths within the directory."""
    found = (path for pattern in TOKENIZER_FILES for path in directory.glob(pattern))
    return sorted(path.relative_to(directory).as_posix() for path in found if path.is_file())


def take_over_tokenizer(model: Path, target: Path) -> None:
    """Gives `target` the tokenizer and the generation_config.json of a model directory or a GGUF file."""
    if is_gguf(model):
        _write_from_gguf(model, target)
        return
    copy_tokenizer(model, target)
    if (model / GENERATION).is_file():
        shutil.copyfile(model / GENERATION, target / GENERATION)


def _write_from_gguf(path: Path, target: Path) -> None:
    backend, files = load_gguf_backend(open_gguf_file(path))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **files.declared.names}
    templates = files.chat_template
    if isinstance(templates, str):
        (target / "chat_template.jinja").write_text(templates, encoding="utf-8")
    elif templates is not None:
        settings["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    (target / "tokenizer.json").write_text(backend.to_str(pretty=True), encoding="utf-8")
    _write_json(target / "tokenizer_config.json", settings)
    ids = {f"{name}_id": backend.token_to_id(token) for name, token in files.declared.names.items() if name in _IDS}
    _write_json(target / GENERATION, {**ids, "eos_token_id": sorted(files.eos_ids)})


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
