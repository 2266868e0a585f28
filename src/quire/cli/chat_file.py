"""A conversation in a file: its messages, the tokens of every answer, and the tokens of the whole as a check.

Answers are kept as tokens because encoding their text again could give different tokens. Loading replays the turns: the
template is applied around the same answers, and the result must equal the saved tokens; otherwise another model wrote the file.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from quire.cli.chat_session import Dialogue
from quire.engine.llm import LLM
from quire.errors import RequestError
from quire.models.strict_json import parse_json, shorten
from quire.units import MIB, format_bytes

FORMAT = "quire-chat"
VERSION = 1
MAX_FILE_BYTES = 64 * MIB
_FIELDS = frozenset({"format", "version", "model", "now", "system", "turns", "token_ids"})
_TURN_FIELDS = frozenset({"user", "assistant", "token_ids"})


def save_dialogue(path: Path, dialogue: Dialogue, model: str) -> None:
    """Writes the file under a temporary name and renames it; raises RequestError instead of replacing a file of another kind."""
    if path.exists():
        _read(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(_to_json(dialogue, model), ensure_ascii=False, indent=1), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unusable(path, f"cannot be written ({error.strerror})", "Choose another place.") from error


def load_dialogue(path: Path, llm: LLM) -> Dialogue:
    """Returns the saved dialogue; raises RequestError for a file that is damaged or belongs to another model."""
    content = _read(path)
    dialogue = Dialogue.start(llm, content["system"])
    dialogue.conversation.now = _moment(content["now"])
    for turn in content["turns"]:
        dialogue.conversation.add_user(turn["user"])
        dialogue.conversation.prompt_token_ids()
        if not all(token_id < llm.tokenizer.vocab_size for token_id in turn["token_ids"]):
            raise _other_model(path, content["model"])
        dialogue.keep(turn["token_ids"])
    if _all_tokens(dialogue) != content["token_ids"]:
        raise _other_model(path, content["model"])
    return dialogue


def _to_json(dialogue: Dialogue, model: str) -> dict[str, Any]:
    texts = [message["content"] for message in dialogue.conversation.messages if message["role"] != "system"]
    turns = [
        {"user": user, "assistant": assistant, "token_ids": list(answer)}
        for user, assistant, answer in zip(texts[::2], texts[1::2], dialogue.answers, strict=True)
    ]
    now = dialogue.conversation.now
    head = {"format": FORMAT, "version": VERSION, "model": model, "now": None if now is None else now.isoformat()}
    return head | {"system": dialogue.system, "turns": turns, "token_ids": _all_tokens(dialogue)}


def _all_tokens(dialogue: Dialogue) -> list[int]:
    """Returns the tokens up to the start of the next answer; empty without turns, because some templates cannot render that."""
    return list(dialogue.conversation.fork().prompt_token_ids()) if dialogue.answers else []


def _read(path: Path) -> dict[str, Any]:
    """Returns the content of a file after checking the form of every field."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror})", "Check the name.") from error
    if len(content) > MAX_FILE_BYTES:
        raise _unusable(path, f"is larger than {format_bytes(MAX_FILE_BYTES)}", "Choose a file that /save has written.")
    try:
        value = parse_json(content)
    except ValueError as error:
        raise _unusable(path, f"is not JSON ({shorten(str(error))})", "Choose a file that /save has written.") from error
    problem = _problem_of(value)
    if problem is not None:
        raise _unusable(path, problem, "Choose a file that /save has written.")
    content_fields: dict[str, Any] = value
    return content_fields


def _problem_of(value: Any) -> str | None:
    """Returns what is wrong with the form of the content, or None."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return "is not a saved conversation"
    if value.get("version") != VERSION:
        return f"has version {shorten(repr(value.get('version')))}, this Quire reads version {VERSION}"
    if set(value) != _FIELDS or not isinstance(value["model"], str) or not _is_text_or_none(value["system"]):
        return "lacks a field or has an unknown one"
    if not _is_moment(value["now"]):
        return "holds an invalid time"
    if not _is_tokens(value["token_ids"]):
        return "holds invalid token ids"
    if not isinstance(value["turns"], list) or not all(map(_is_turn, value["turns"])):
        return "holds a turn without a text, an answer and its tokens"
    return None


def _is_turn(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != _TURN_FIELDS:
        return False
    return isinstance(value["user"], str) and isinstance(value["assistant"], str) and _is_tokens(value["token_ids"])


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**31 for item in value)


def _is_moment(value: Any) -> bool:
    try:
        _moment(value)
    except (TypeError, ValueError):
        return False
    return True


def _moment(text: str | None) -> datetime | None:
    """Returns the time that the chat template received in every turn."""
    return None if text is None else datetime.fromisoformat(text)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _unusable(path: Path, problem: str, next_step: str) -> RequestError:
    return RequestError(f"the file {problem}", given=str(path)[:200], next_step=next_step)


def _other_model(path: Path, model: str) -> RequestError:
    return _unusable(path, "was saved with another model or chat template", f"Open it with the model {shorten(model)!r}.")
