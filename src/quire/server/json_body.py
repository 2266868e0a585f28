"""A JSON body, read strictly: what Python's parser silently accepts or changes is refused."""

from __future__ import annotations

import json
import math
import re
from functools import cache, partial
from typing import Any, NoReturn

from quire.server.errors import ApiError, refuse
from quire.server.limits import Limits
from quire.values import is_unicode

Fields = dict[str, Any]


def parse_body(body: bytes, limits: Limits) -> Fields:
    """Returns the object in a body of UTF-8.

    Raises ApiError for anything else, for NaN and infinities, numbers too large to be kept, names that occur twice in one
    object, halves of characters, and deep nesting.
    """
    may_be_long = re.search(rb"[0-9]{%d}" % (limits.json_digits + 1), body) is not None
    try:
        value = _decoder(limits.json_digits if may_be_long else None).decode(body.decode())
    except ApiError:
        raise
    except RecursionError as error:
        raise _too_deep(limits) from error
    except json.JSONDecodeError as error:
        raise _invalid(f"the body is not JSON from character {error.pos} on") from error
    except UnicodeDecodeError as error:
        raise _invalid(f"the body is not UTF-8 from byte {error.start} on") from error
    if not isinstance(value, dict):
        raise _invalid("the body is not a JSON object")
    _require_shallow(value, limits)
    if b"\\u" in body and not _is_unicode_throughout(value):
        raise _invalid("the body holds half a surrogate pair")
    return value


@cache
def _decoder(most_digits: int | None) -> json.JSONDecoder:
    """Returns a decoder that counts the digits of integers, or none where no number of the text is that long."""
    return json.JSONDecoder(
        object_pairs_hook=_unique_fields,
        parse_constant=_refuse_constant,
        parse_float=_finite,
        parse_int=None if most_digits is None else partial(_short_int, most_digits),
    )


def _unique_fields(pairs: list[tuple[str, Any]]) -> Fields:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _invalid("a name occurs twice in one object")
    return fields


def _refuse_constant(_name: str) -> NoReturn:
    raise _invalid("NaN and infinities are not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _invalid("a number is too large to be kept")
    return number


def _short_int(most_digits: int, digits: str) -> int:
    if len(digits.lstrip("-")) > most_digits:
        raise _invalid(f"an integer has more than {most_digits} digits")
    return int(digits)


def _require_shallow(value: object, limits: Limits) -> None:
    level: list[object] = [value]
    for _ in range(limits.json_depth):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, (dict, list))]
        if not level:
            return
    raise _too_deep(limits)


def _is_unicode_throughout(value: object) -> bool:
    level: list[object] = [value]
    while level:
        inner = [each for outer in level for each in _inside(outer)]
        names = [name for outer in level if isinstance(outer, dict) for name in outer]
        if not all(is_unicode(text) for text in (*inner, *names) if isinstance(text, str)):
            return False
        level = [each for each in inner if isinstance(each, (dict, list))]
    return True


def _inside(value: object) -> Any:
    return value.values() if isinstance(value, dict) else value


def _invalid(problem: str) -> ApiError:
    return refuse(problem, "Send one JSON object in UTF-8.", code="invalid_json")


def _too_deep(limits: Limits) -> ApiError:
    return refuse(f"the body is nested more than {limits.json_depth} deep", "Send a flatter object.", code="invalid_json")
