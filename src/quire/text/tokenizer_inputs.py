"""What may be encoded and decoded, and the errors for anything else."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np

from quire.errors import RequestError
from quire.values import as_int, shown

_MAX_TOKEN_ID = 2**32 - 1


def require_text(text: object) -> None:
    """Raises RequestError unless it is a text that can be written as UTF-8."""
    if not isinstance(text, str):
        raise RequestError("only a text can be encoded", given=shown(text), next_step="Pass a str.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            "the text is not valid Unicode",
            given=f"a lone surrogate at character {error.start}",
            next_step="Send text that can be written as UTF-8.",
        ) from error


def require_texts(texts: object) -> None:
    """Raises RequestError unless it is a list of texts that can be written as UTF-8."""
    if not isinstance(texts, (list, tuple)):
        raise RequestError("only a list of texts can be encoded at once", given=shown(texts), next_step="Pass a list of str.")
    for text in texts:
        require_text(text)


def listed(token_ids: object) -> list[int]:
    """Returns a sequence or array as a list of token ids; raises RequestError for anything else."""
    values = token_ids.tolist() if isinstance(token_ids, np.ndarray) else token_ids
    if isinstance(values, (str, bytes, bytearray)) or not isinstance(values, Sequence):
        raise _not_ids(token_ids)
    ids = [as_int(token_id) for token_id in values]
    known = [token_id for token_id in ids if token_id is not None and 0 <= token_id <= _MAX_TOKEN_ID]
    if len(known) != len(ids):
        raise _not_ids(token_ids)
    return known


def require_member(name: str, value: object, choices: type[Enum]) -> None:
    """Raises RequestError unless an argument is a member of its enum."""
    if not isinstance(value, choices):
        limit = ", ".join(str(choice) for choice in choices)
        raise RequestError(
            f"{name} is not a member of {choices.__name__}", given=shown(value), limit=limit, next_step="Pass one of these."
        )


def token_id_error(token_id: object) -> RequestError:
    """Returns the error for a value that is not a token id."""
    return RequestError(
        "this is not a token id",
        given=shown(token_id),
        limit=f"0 to {_MAX_TOKEN_ID}",
        next_step="Pass an integer of the vocabulary.",
    )


def _not_ids(value: object) -> RequestError:
    return RequestError(
        "only a list of token ids can be decoded",
        given=shown(value),
        limit=f"integers from 0 to {_MAX_TOKEN_ID}",
        next_step="Pass a list, a tuple or a one-dimensional array of integers.",
    )
