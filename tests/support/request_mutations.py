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

SEEDS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "/v1/chat/completions": (
        {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1},
        {
            "model": "any",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            ],
            "max_tokens": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
            "n": 2,
            "seed": 1,
            "logprobs": True,
            "top_logprobs": 2,
        },
    ),
    "/v1/completions": (
        {"prompt": "Hi", "max_tokens": 1},
        {
            "prompt": [[5, 6], "Hi"],
            "max_tokens": 1,
            "echo": True,
            "logprobs": 2,
            "stream": True,
            "stop": ["x"],
            "n": 2,
            "seed": 3,
        },
        {"prompt": [5, 6], "max_tokens": 0, "prompt_logprobs": 1, "logit_bias": {"5": 1}, "stop_token_ids": [7]},
    ),
    "/v1/score": ({"prompt": "a b", "context": "c", "top_logprobs": 2},),
    "/tokenize": (
        {"prompt": "Hi", "return_token_strs": True},
        {"content": "Hi", "with_pieces": True},
        {"messages": [{"role": "user", "content": "Hi"}]},
    ),
    "/detokenize": ({"tokens": [5, 6]},),
}

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
EXTREMES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3071, 3072, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, -(2**63), 0.5, -0.0, 1e-300, 1e300,
    "", " ", "x", "\x00", "null", "1", "<|end|>", "\U0001f600" * 9, "a" * 5000, [], {}, [None], [[]], [{}], {"": ""}, [1, "x"],
    [True], [-1], [3072], list(range(300)), ["x"] * 300, {"x": {"x": {"x": 1}}}, {"type": "text"}, {"type": "json_object"},
    {"5": 1}, {"-1": 0}, {"1e3": 1}, [[1], ["x"]],
)  # fmt: skip

ACCEPTED: Mapping[str, tuple[Any, ...]] = {
    "n": (2, 64),
    "seed": (0, -(2**63), 2**63 - 1),
    "stop": ("e", ["e", "\n"], [" "] * 64),
    "temperature": (0, 1e-300, 100),
    "top_p": (0, 1e-300, 1),
    "top_k": (0, 1, -1, 2**62),
    "min_p": (0, 1e-300, 1),
    "repetition_penalty": (0.01, 100),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "max_tokens": (1, 2, 300, 2**62),
    "max_completion_tokens": (1, 2**62),
    "min_tokens": (0, 1, 2, 255, 2**62),
    "stop_token_ids": ([3071], [0], list(range(3072))),
    "allowed_token_ids": ([0], [3071], [5, 6]),
    "bad_words": (["e"], list("abcdefghijklmnopqrstuvwxyz,.<|>"), [" "]),
    "logit_bias": ({"0": 100}, {"3071": -100}),
    "logprobs": (0, 20, True),
    "top_logprobs": (0, 20),
    "prompt_logprobs": (0, 20),
    "ignore_eos": (True, False),
    "echo": (True,),
    "stream": (True,),
    "stream_options": ({"include_usage": True}, {}),
    "return_progress": (True,),
    "return_token_ids": (True,),
    "cache_prompt": (False,),
    "cache_salt": ("", "x"),
    "priority": (-100, 100),
    "skip_special_tokens": (False,),
    "include_stop_str_in_output": (True,),
    "continue_final_message": (True,),
    "add_generation_prompt": (True, False),
    "suffix": ("x",),
    "best_of": (1, 2),
    "reasoning_effort": ("none", "high"),
    "prompt": ("", [0], [3071], ["a", "b"], [[5], "a"], "a" * 400, [5] * 255, [5] * 256),
    "context": ("x", [5]),
    "content": ("x",),
    "tokens": ([], [0, 3071]),
    "add_special_tokens": (True, False),
}
"""Values that endpoints take, at the ends of what they take."""


def fields_of(path: str) -> list[str]:
    """Returns every field that an endpoint knows, and one that it does not."""
    (operation,) = [each for each in OPERATIONS if each.path == path and each.fields is not None]
    assert operation.fields is not None
    return [*operation.fields.model_fields, *UNSUPPORTED, "no_such_field"]


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
    encoded, name = rng.choice(((gzip.compress(body), "gzip"), (zlib.compress(body), "deflate"), (gzip.compress(bomb), "gzip")))
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
}
_WEIGHTS = (24, 30, 14, 8, 3, 8, 3, 3, 1, 3, 3)


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
