"""What the owner of a request is told about an exception that ended it."""

from __future__ import annotations

from quire.errors import QuireError

MAX_MESSAGE_CHARS = 500


def failure_message(error: BaseException) -> str:
    """Returns the text of an error of Quire's own, or the kind and text of any other, at most 500 characters."""
    text = str(error) if isinstance(error, QuireError) else f"{type(error).__name__}: {error}"
    return text[:MAX_MESSAGE_CHARS]
