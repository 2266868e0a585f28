"""Training data on disk: what a document is, and how files become documents.

notes.txt       one document, all of its text is learned
chats.jsonl     one document a line: {"text": "..."} or {"messages": [{"role": "user", "content": "..."}, ...]};
                of a conversation only what the assistant says is learned
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.errors import ConfigError

TEXT_SUFFIXES = (".txt", ".md")
JSONL_SUFFIX = ".jsonl"
ASSISTANT = "assistant"
_FORM = 'Write one {"text": "..."} or {"messages": [{"role": "...", "content": "..."}]} a line.'

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Text, or a conversation; exactly one of the two."""

    text: str | None = None
    messages: tuple[Message, ...] = ()

    def pieces(self) -> Iterator[str]:
        """Yields the texts a tokenizer may be trained on."""
        if self.text is not None:
            yield self.text
        yield from (message["content"] for message in self.messages)


def read_documents(paths: Iterable[Path]) -> Iterator[Document]:
    """Yields the documents of all files in the order given; raises ConfigError naming file and line."""
    for path in paths:
        if path.suffix in TEXT_SUFFIXES:
            text = _read_text(path)
            if text.strip():
                yield Document(text=text)
        elif path.suffix == JSONL_SUFFIX:
            yield from _read_jsonl(path)
        else:
            limit = ", ".join((*TEXT_SUFFIXES, JSONL_SUFFIX))
            raise ConfigError(
                "training data of an unknown kind", given=path, limit=limit, next_step="Rename or convert the file."
            )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _read_jsonl(path: Path) -> Iterator[Document]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _parse(line: str, where: str) -> Document:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ConfigError("a line of training data is not JSON", given=where, next_step=_FORM) from error
    if isinstance(fields, dict) and isinstance(fields.get("text"), str) and fields["text"]:
        return Document(text=fields["text"])
    messages = fields.get("messages") if isinstance(fields, dict) else None
    if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
        raise ConfigError("a line of training data is neither text nor a conversation", given=where, next_step=_FORM)
    if not any(message["role"] == ASSISTANT for message in messages):
        raise ConfigError(
            "a conversation of the training data has no answer to learn",
            given=where,
            next_step='Add a message with the role "assistant", or leave the line out.',
        )
    return Document(messages=tuple({"role": message["role"], "content": message["content"]} for message in messages))


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError("training data cannot be read", given=f"{path}: {error}", next_step="Name readable UTF-8 files.")
