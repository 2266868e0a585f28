"""The JSON files next to tokenizer.json: which of their fields Quire reads, and how they are checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quire.errors import TokenizerError
from quire.models.mapped_file import read_file
from quire.text.added_tokens import NOTHING_DECLARED, DeclaredTokens, read_declared
from quire.text.mistral_regex import needs_repair
from quire.text.tokenizer_settings import class_tokens, flag, prefix_space, refuse_unknown
from quire.units import MIB, format_bytes

MAX_TOKENIZER_BYTES = 256 * MIB
MAX_JSON_BYTES = 16 * MIB
_SETTINGS = "tokenizer_config.json"
_SPECIAL_MAP = "special_tokens_map.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """The contents of the files next to `tokenizer.json`: special tokens, ids that end an answer, the chat template.

    `declared` holds the tokens that a tokenizer should know.
    `has_prefix_space` is None where tokenizer.json decides. `control_tokens` are texts that no message spells as tokens.
    `vocab_size` is the largest id + 1, None where only the tokenizer itself says it.
    """

    eos_ids: frozenset[int]
    chat_template: str | Mapping[str, str] | None
    declared: DeclaredTokens = NOTHING_DECLARED
    splits_special: bool = False
    has_prefix_space: bool | None = None
    cleans_up_spaces: bool = False
    needs_mistral_regex: bool = False
    control_tokens: frozenset[str] = frozenset()
    vocab_size: int | None = None


def read_tokenizer_files(directory: Path, *, is_byte_level: bool) -> TokenizerFiles:
    """Reads the optional files of a model directory; raises TokenizerError if one is damaged.

    `is_byte_level` is a fact of tokenizer.json.
    `eos_token_id` comes from generation_config.json, or from config.json where that is silent.
    """
    settings, token_map = _read_json(directory / _SETTINGS), _read_json(directory / _SPECIAL_MAP)
    refuse_unknown(_SETTINGS, settings)
    refuse_unknown(_SPECIAL_MAP, token_map)
    config = _read_json(directory / "config.json")
    assumed = class_tokens(settings, config.get("model_type"), is_byte_level=is_byte_level)
    declared = read_declared(settings, token_map, _read_json(directory / "added_tokens.json"), assumed)
    return TokenizerFiles(
        eos_ids=_eos_ids(_read_json(directory / "generation_config.json")) or _eos_ids(config),
        chat_template=_chat_template(directory, settings),
        declared=declared,
        splits_special=bool(flag(_SETTINGS, settings, "split_special_tokens")),
        has_prefix_space=prefix_space(settings, config.get("model_type")),
        cleans_up_spaces=bool(flag(_SETTINGS, settings, "clean_up_tokenization_spaces")),
        needs_mistral_regex=bool(flag(_SETTINGS, settings, "fix_mistral_regex")) and needs_repair(config),
        control_tokens=_control_tokens(settings),
    )


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Returns a file's content; raises TokenizerError if it is missing or longer than `max_bytes`."""
    try:
        content = read_file(path, max_bytes)
    except OSError as error:
        raise TokenizerError(
            f"{path.name} cannot be read",
            given=error.strerror,
            next_step="Use a model directory that holds tokenizer.json, as save_pretrained of a fast tokenizer writes it.",
        ) from error
    if content is None:
        raise TokenizerError(
            f"{path.name} is too large",
            given=format_bytes(path.stat().st_size),
            limit=format_bytes(max_bytes),
            next_step="Check the file; tokenizers are smaller.",
        )
    return content


def damaged(name: str, reason: str) -> TokenizerError:
    """Returns the error for a file that exists and cannot be used."""
    return TokenizerError(f"{name} is damaged", given=reason[:200], next_step="Download or export the file again.")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(read_bytes(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, TokenizerError) else damaged(path.name, "not JSON") from error
    if not isinstance(content, dict):
        raise damaged(path.name, "not a JSON object")
    return content


def _control_tokens(settings: Mapping[str, Any]) -> frozenset[str]:
    value = settings.get("chat_control_tokens") or []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise damaged("chat_control_tokens", "not a list of texts")
    return frozenset(value)


def _eos_ids(settings: Mapping[str, Any]) -> frozenset[int]:
    value = settings.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0 for token_id in ids):
        raise damaged("eos_token_id", "not a token id or a list of them")
    return frozenset(ids)


def _chat_template(directory: Path, settings: Mapping[str, Any]) -> str | Mapping[str, str] | None:
    """Returns one template, or several by name where there are more than the default one.

    Files of their own (chat_template.jinja, additional_chat_templates/NAME.jinja) win over tokenizer_config.json, and that over
    the chat_template.json of processors.
    """
    names = {path.stem: path for path in sorted(directory.glob("additional_chat_templates/*.jinja"))}
    if (directory / "chat_template.jinja").exists():
        names = {"default": directory / "chat_template.jinja"} | names
    templates = _configured_templates(settings.get("chat_template")) or _configured_templates(
        _read_json(directory / "chat_template.json").get("chat_template")
    )
    if "default" in names:
        templates = {}
    templates |= {name: _read_text(path) for name, path in names.items()}
    return templates["default"] if templates.keys() == {"default"} else MappingProxyType(templates) if templates else None


def _configured_templates(value: object) -> dict[str, str]:
    """Returns the templates that a JSON file holds: none, a text, or a list of named ones."""
    named = value if isinstance(value, list) else [] if value is None else [{"name": "default", "template": value}]
    templates: dict[str, str] = {}
    for item in named:
        name, template = (item.get("name"), item.get("template")) if isinstance(item, Mapping) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str):
            raise damaged("chat_template", "not a text, nor a list of names and templates")
        templates[name] = template
    return templates


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path, MAX_JSON_BYTES).decode()
    except UnicodeDecodeError as error:
        raise damaged(path.name, "not UTF-8") from error
