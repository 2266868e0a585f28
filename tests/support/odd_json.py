"""Damaged JSON: values of another type or at the edge of one, and text that no program should accept or be long about."""

from __future__ import annotations

import json
import random
from typing import Any

from support.hostile import EXTREMES

_ODD = (
    *(0, -1, 1, 2, 3, 5, 7, 128, 1.5, -0.0, 1e-320, 1e308, True, False, None, "", "x" * 300, "\u00e9", [], {}, [0], [-1, 5]),
    *({"bits": 5}, [[[]]], [None], {"": {}}, float(2**53), 10**30, *EXTREMES),
)
_PLACEHOLDER = "@odd text@"
_TEXTS = (
    b"[" * 100_000,
    b"[" * 900 + b"]" * 900,
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    b"9" * 4_000,
    b"9" * 100_000,
    b"-" + b"1" * 5_000,
    b"1e400",
    b"-1e400",
    b"0." + b"0" * 5_000 + b"1",
    b"NaN",
    b"-Infinity",
    b'"\\ud800"',
    b'"\xff"',
    b'"\\u0000"',
    b"\xef\xbb\xbf1",
    b"1 2",
    b"",
    b"nul",
    b"0x10",
    b'{"a": 1, "a": 1}',
    b'"' + b"x" * 200_000 + b'"',
    b"[" + b"0," * 100_000 + b"0]",
)


def odd_value(rng: random.Random) -> Any:
    """Returns a value that is rarely right anywhere, or a stand-in for text that `json_bytes` puts there."""
    value = _PLACEHOLDER if rng.random() < 0.3 else rng.choice(_ODD)
    return json.loads(json.dumps(value))


def mutate_json(fields: dict[str, Any], rng: random.Random) -> None:
    """Replaces, drops, adds or swaps something anywhere in an object."""
    place: Any = fields
    while inner := [value for value in _values(place) if isinstance(value, dict | list) and value]:
        if rng.random() < 0.3:
            break
        place = rng.choice(inner)
    keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
    if not keys:
        fields["never_heard_of"] = odd_value(rng)
        return
    key, other = rng.choice(keys), rng.choice(keys)
    match rng.randrange(6):
        case 0:
            del place[key]
        case 1:
            place[key], place[other] = place[other], place[key]
        case 2 if isinstance(place, dict):
            place[rng.choice(("never_heard_of", "bits", "group_size", "dtype", "x" * 1000))] = odd_value(rng)
        case _:
            place[key] = odd_value(rng)


def json_bytes(value: Any, rng: random.Random) -> bytes:
    """Returns the text of a value; rarely with a name doubled, cut off, or as another text altogether."""
    text = json.dumps(value).encode()
    quoted = json.dumps(_PLACEHOLDER).encode()
    while quoted in text:
        text = text.replace(quoted, rng.choice(_TEXTS), 1)
    match rng.randrange(40):
        case 0:
            return text.replace(b"{", b'{"dtype": "F32", "dtype": "F32", ', 1)
        case 1:
            return text[: rng.randrange(len(text) + 1)]
        case 2:
            return rng.choice(_TEXTS)
        case 3:
            return text + rng.choice((b"{}", b"\x00", b" " * 100_000, b"x"))
    return text


def _values(place: Any) -> list[Any]:
    return list(place.values()) if isinstance(place, dict) else list(place)
