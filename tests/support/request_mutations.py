"""Requests that are almost right: one seed, one mutation of a good request of any API."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from quire.server.fields import UNSUPPORTED
from quire.server.openapi_operations import OPERATIONS
from support.asgi_client import JSON_HEADERS, Asked
from support.request_seeds import ACCEPTED, EXTREMES, SEEDS

_QUERIED = (
    "/v1/kv/map",
    "/v1/kv/holdings",
    "/v1/kv/ledger",
    "/v1/kv/explain/x",
    "/v1/responses/resp_x",
    "/v1/responses/resp_x/input_items",
    "/v1/models",
    "/metrics",
    "/health",
)
_LONG = 10_000_000
_RAW = {
    "NaN": "NaN",
    "infinity": "-Infinity",
    "overflow": "1e400",
    "huge integer": "9" * 400,
    "integer of 20 digits": "9" * 20,
    "deep arrays": "[" * 3000 + "]" * 3000,
    "deep objects": '{"a":' * 150 + "1" + "}" * 150,
    "lone surrogate": '"\\ud83d"',
    "second half": '"a\\udc00b"',
    "control character": '"\\u0000\\u001b[31m"',
    "noncharacters": '"\\ufdd0\\ufffe<|end|>"',
    "bad escape": '"\\x"',
    "unquoted": "value",
    "nothing": "",
}


def fields_of(path: str) -> list[str]:
    """Returns every field that an endpoint knows, and one that it does not."""
    (operation,) = [each for each in OPERATIONS if each.path == path and each.fields is not None]
    assert operation.fields is not None
    names = [field.alias or name for name, field in operation.fields.model_fields.items()]
    return [*names, *UNSUPPORTED, "no_such_field"]


def mutation(seed: int) -> tuple[str, Asked]:
    """Returns the request of a seed, and what was done to it."""
    rng = random.Random(seed)
    path = rng.choice(list(SEEDS))
    good: dict[str, Any] = json.loads(json.dumps(rng.choice(SEEDS[path])))
    name = rng.choices(list(_MUTATIONS), weights=_WEIGHTS)[0]
    return name, _MUTATIONS[name](rng, path, good)


def _posted(path: str, text: str) -> Asked:
    return Asked(path=path, body=text.encode(errors="surrogatepass"))


def _with_field(rng: random.Random, path: str, good: dict[str, Any]) -> Asked:
    good[rng.choice(fields_of(path))] = rng.choice(EXTREMES)
    return _posted(path, json.dumps(good))


def _with_pair(rng: random.Random, path: str, good: dict[str, Any]) -> Asked:
    known = fields_of(path)
    accepted = [name for name in known if name in ACCEPTED]
    for name in (
        rng.sample(known, 2) if rng.random() < 0.3 else rng.sample(accepted, min(len(accepted), rng.choice((1, 2, 2, 3, 5))))
    ):
        good[name] = rng.choice((None, rng.choice(ACCEPTED.get(name, EXTREMES))))
    return _posted(path, json.dumps(good))


def _with_inner(rng: random.Random, path: str, good: dict[str, Any]) -> Asked:
    """Replaces, drops or adds something anywhere inside."""
    places = list(_containers(good))
    container = rng.choice(places)
    keys = list(container) if isinstance(container, dict) else list(range(len(container)))
    if not keys or rng.random() < 0.2:
        _add(container, rng)
    elif rng.random() < 0.2:
        del container[rng.choice(keys)]
    else:
        container[rng.choice(keys)] = rng.choice(EXTREMES)
    return _posted(path, json.dumps(good))


def _with_raw(rng: random.Random, path: str, good: dict[str, Any]) -> Asked:
    """Writes JSON that no writer of JSON writes."""
    name = rng.choice([*good, *fields_of(path)])
    text = json.dumps({**good, name: "@"})
    return _posted(path, text.replace('"@"', _RAW[rng.choice(list(_RAW))]))


def _with_duplicate(rng: random.Random, path: str, good: dict[str, Any]) -> Asked:
    name = rng.choice(list(good))
    text = json.dumps(good)
    return _posted(path, f"{text[:-1]}, {json.dumps(name)}: {json.dumps(rng.choice(EXTREMES))}}}")


def _with_bytes(rng: random.Random, path: str, good: dict[str, Any]) -> Asked:
    body = bytearray(json.dumps(good).encode())
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(body))
        match rng.randrange(4):
            case 0:
                body[place] = rng.randrange(256)
            case 1:
                del body[place : place + rng.randint(1, 9)]
            case 2:
                body[place:place] = rng.choice(
                    (b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b"\x00", rng.randbytes(5))
                )
            case _:
                body[place:place] = body[place : place + rng.randint(1, 40)]
        body = body or bytearray(b"{")
    return Asked(path=path, body=bytes(body))


def _encoded(rng: random.Random, path: str, good: dict[str, Any]) -> Asked:
    body = json.dumps(good).encode()
    bomb = b"[" + b" " * 5_000_000 + b"]"
    encoded, name = rng.choice(
        ((gzip.compress(body, mtime=0), "gzip"), (zlib.compress(body), "deflate"), (gzip.compress(bomb, mtime=0), "gzip"))
    )
    says = rng.choice(({"content-encoding": name}, {"content-encoding": "identity, gzip"}, {}))
    return Asked(path=path, body=encoded, headers={**JSON_HEADERS, **says})


def _as_another_type(rng: random.Random, path: str, good: dict[str, Any]) -> Asked:
    types = (
        "",
        "text/plain",
        "application/json; charset=utf-16",
        "application/jsonx",
        "multipart/form-data; boundary=x",
        "*/*",
        "\xff",
    )
    headers = rng.choice(
        ({"content-type": rng.choice(types)}, {**JSON_HEADERS, "content-length": rng.choice(("-1", "x", "9" * 30))})
    )
    return replace(_posted(path, json.dumps(good)), headers=headers)


def _long(rng: random.Random, path: str, good: dict[str, Any]) -> Asked:
    name = rng.choice([*good, rng.choice(fields_of(path))])
    size = rng.choice((_LONG, 2_000_000, 200_000))
    value = rng.choice(("x" * size, "word " * (size // 5), [7] * (size // 4), {"k" * (size // 2): "v" * (size // 2)}))
    return _posted(path, json.dumps({**good, name: value}))


def _elsewhere(rng: random.Random, path: str, good: dict[str, Any]) -> Asked:
    paths = (
        f"{path}/",
        f"/{path}",
        path.upper(),
        "/v1/nothing",
        "/v1/messages/x",
        "/v1/models/x",
        "/v1/models/",
        "/health",
        "/%2e%2e",
    )
    methods = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "")
    asked = _posted(path, json.dumps(good))
    return replace(asked, path=rng.choice((path, *paths)), method=rng.choice(methods))


def _with_query(rng: random.Random, _path: str, _good: dict[str, Any]) -> Asked:
    name = rng.choice(("first", "limit", "after", "order", "compared_with", "stream", "beta", "no_such"))
    value = rng.choice(
        ("", "0", "-1", "1", "1024", "1025", "2147483648", "9" * 40, "1e3", "%00", "%ff", "\xff", "x" * 5000, "asc", "true")
    )
    query = rng.choice(
        (f"{name}={value}", f"{name}={value}&{name}=1", name, f"{name}[]={value}", "&" * 50, f"{'&'.join('a' * 900)}")
    )
    return Asked(method=rng.choice(("GET", "GET", "DELETE", "POST")), path=rng.choice(_QUERIED), query=query)


def _as_another_api(rng: random.Random, path: str, good: dict[str, Any]) -> Asked:
    return _posted(rng.choice([each for each in SEEDS if each != path]), json.dumps(good))


_MUTATIONS: Mapping[str, Callable[[random.Random, str, dict[str, Any]], Asked]] = {
    "field": _with_field,
    "pair of fields": _with_pair,
    "inner value": _with_inner,
    "raw text": _with_raw,
    "duplicate name": _with_duplicate,
    "bytes": _with_bytes,
    "encoded body": _encoded,
    "type of body": _as_another_type,
    "long value": _long,
    "path and method": _elsewhere,
    "another API": _as_another_api,
    "query": _with_query,
}
_WEIGHTS = (24, 30, 14, 8, 3, 8, 3, 3, 1, 3, 3, 5)


def _containers(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _containers(inner)


def _add(container: Any, rng: random.Random) -> None:
    if isinstance(container, dict):
        container[rng.choice(("role", "content", "type", "text", "name", "x"))] = rng.choice(EXTREMES)
    else:
        container.append(rng.choice(EXTREMES))
