"""Training data on disk: what a document is, and how files become documents.

notes.txt       one document, all of its text is learned
chats.jsonl     one document per line: {"text": "..."} or {"messages": [{"role": "user", "content": "..."}, ...]};
                of a conversation only the assistant's messages are learned
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.errors import ConfigError
from quire.values import utf8_fault_of

TEXT_SUFFIXES = (".txt", ".md")
JSONL_SUFFIX = ".jsonl"
ASSISTANT = "assistant"
_FORM = 'Write one {"text": "..."} or {"messages": [{"role": "...", "content": "..."}]} per line.'
_ENCODING = "utf-8-sig"  # a byte order mark is not text

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Either a text or a conversation. `where` is its file, with the line number in a JSONL file."""

    where: str
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
        suffix = path.suffix.lower()
        if suffix in TEXT_SUFFIXES:
            text = _read_text(path)
            if text.strip():
                yield Document(text=text, where=str(path))
        elif suffix == JSONL_SUFFIX:
            yield from _read_jsonl(path)
        else:
            limit = ", ".join((*TEXT_SUFFIXES, JSONL_SUFFIX))
            raise ConfigError(
                "training data has an unknown file type", given=path, limit=limit, next_step="Rename or convert the file."
            )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding=_ENCODING)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _read_jsonl(path: Path) -> Iterator[Document]:
    try:
        with path.open(encoding=_ENCODING) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _parse(line: str, where: str) -> Document:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError("a line of training data is not JSON", given=where, next_step=_FORM) from error
    text, messages = (fields.get("text"), fields.get("messages")) if isinstance(fields, dict) else (None, None)
    if messages is None and isinstance(text, str) and text:
        return _checked(Document(text=text, where=where))
    if text is not None or not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise ConfigError("a line of training data is neither text nor a conversation", given=where, next_step=_FORM)
    if not any(message["role"] == ASSISTANT for message in messages):
        raise ConfigError(
            "a conversation of the training data has no answer to learn",
            given=where,
            next_step='Add a message with the role "assistant", or leave the line out.',
        )
    plain = tuple({"role": message["role"], "content": message["content"]} for message in messages)
    return _checked(Document(messages=plain, where=where))


def _checked(document: Document) -> Document:
    """Returns the document; raises ConfigError for half of a surrogate pair, which JSON can express and UTF-8 cannot."""
    try:
        "".join(document.pieces()).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            "a line of training data is not valid Unicode",
            given=f"{document.where}: a lone surrogate",
            next_step="Write both halves of the pair, or leave the line out.",
        ) from error
    return document


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _unreadable(path: Path, error: Exception) -> ConfigError:
    reason = utf8_fault_of(path) if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None)
    return ConfigError("training data cannot be read", given=f"{path}: {reason or error}", next_step="Name readable UTF-8 files.")
