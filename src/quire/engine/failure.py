"""What the owner of a request is told about an exception that ended it."""

from __future__ import annotations

from quire.errors import ExecutorError, QuireError

MAX_MESSAGE_CHARS = 500
_ADVICE = "Try again, or check the model's weights."


def failure_message(error: BaseException) -> str:
    """Returns the text of an error of Quire's own, or the kind and text of any other, at most 500 characters."""
    text = str(error) if isinstance(error, QuireError) else f"{type(error).__name__}: {error}"
    return text[:MAX_MESSAGE_CHARS]


def failure_of(message: str) -> ExecutorError:
    """Returns the error to raise for a request that ended with `message`; advice that the message ends with is not doubled."""
    problem, _, next_step = message.removesuffix(".").rpartition(". ")
    if not problem or not message.endswith("."):
        return ExecutorError(message.removesuffix("."), next_step=_ADVICE)
    return ExecutorError(problem, next_step=f"{next_step}.")
