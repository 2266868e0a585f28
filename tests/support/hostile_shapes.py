"""Sixty ways to ask badly, by name: bodies that are sent with a client, and bytes that no client sends."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "Hi"}]
LONG = "word " * 150
Shape = Callable[[int], None]
"""Asks the server at a port, and ignores the answer."""


def raw(*pieces: bytes, reads: int = 0) -> Shape:
    """Sends bytes as they are, reads so many pieces of the answer, and leaves."""

    def ask(port: int) -> None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            for piece in pieces:
                connection.sendall(piece)
            for _ in range(reads):
                connection.recv(4096)

    return ask


def posted(path: str, body: bytes, *headers: str, reads: int = 1) -> Shape:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body, reads=reads)


def chat(reads: int = 1, **fields: Any) -> Shape:
    return posted(CHAT, json.dumps({"messages": HI, "max_tokens": 5, **fields}).encode(), reads=reads)


def completion(reads: int = 1, **fields: Any) -> Shape:
    return posted(COMPLETION, json.dumps({"prompt": "Hi", "max_tokens": 5, **fields}).encode(), reads=reads)


_GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
_BODIES: Mapping[str, bytes] = {
    "empty body": b"",
    "not a number": b'{"prompt": "a", "temperature": NaN}',
    "overflowing number": b'{"prompt": "a", "temperature": 1e999}',
    "huge integer": b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    "name twice": b'{"prompt": "a", "prompt": "b"}',
    "deep arrays": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "half a pair": b'{"prompt": "\\ud800"}',
    "not UTF-8": b'{"prompt": "\xff\xfe"}',
    "zero bytes": b'{"prompt": "' + b"\x00" * 50 + b'"}',
    "text of 2 MB": b'{"prompt": "' + b"x" * 2_000_000 + b'"}',
    "ids of 1 MB": b'{"prompt": [' + b"5," * 500_000 + b"5]}",
    "a thousand fields": json.dumps({"prompt": "a", **{f"field_{number}": number for number in range(1000)}}).encode(),
}
SHAPES: Mapping[str, Shape] = {
    **{name: posted(COMPLETION, body) for name, body in _BODIES.items()},
    "packed body": posted(COMPLETION, gzip.compress(b'{"prompt": "a"}'), "Content-Encoding: gzip"),
    "packed body that does not say so": posted(COMPLETION, gzip.compress(b'{"prompt": "a"}')),
    # -- of the protocol
    "garbage": raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 60, reads=1),
    "HTTP/2": raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", reads=1),
    "half a head": raw(_GET),
    "head of 100 KB": raw(_GET + b"X: " + b"x" * 100_000 + b"\r\n\r\n", reads=1),
    "thousand headers": raw(_GET + b"X: y\r\n" * 1000 + b"\r\n", reads=1),
    "half a body": raw(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"),
    "two lengths": raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", reads=1),
    "length and chunks": raw(
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", reads=1
    ),
    "bad chunk": raw(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", reads=1),
    "twenty requests at once": raw((_GET + b"\r\n") * 20, reads=2),
    "another host": raw(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", reads=1),
    "no host": raw(b"GET / HTTP/1.1\r\n\r\n", reads=1),
    "unknown method": raw(b"BREW /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", reads=1),
    "path of 20 KB": raw(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", reads=1),
    "nothing at all": raw(),
    # -- those who leave
    "stream left at its head": completion(reads=1, stream=True, max_tokens=300, ignore_eos=True),
    "stream left unread": completion(reads=0, stream=True, max_tokens=300, ignore_eos=True),
    "answer left": completion(reads=0, max_tokens=300, ignore_eos=True),
    "prompt left": completion(reads=0, prompt=LONG),
    "chat left": chat(reads=0, stream=True, max_tokens=200),
    "response left": posted("/v1/responses", b'{"input": "Hi", "stream": true, "max_output_tokens": 200}', reads=1),
    "message left": posted("/v1/messages", json.dumps({"messages": HI, "stream": True, "max_tokens": 200}).encode(), reads=1),
    # -- of the engine
    "eight choices": completion(n=8, temperature=1),
    "many prompts": completion(prompt=["a"] * 30),
    "prompt that does not fit": completion(prompt=LONG * 20),
    "prompt that just fits": completion(prompt=[5] * 511),
    "no tokens": completion(prompt=[]),
    "ids beyond the logits": completion(prompt=[5, 3072]),
    "allowed ids": completion(allowed_token_ids=[100, 200]),
    "penalties": completion(frequency_penalty=2, presence_penalty=2, repetition_penalty=100),
    "biases": completion(logit_bias={str(number): -100 for number in range(300)}),
    "banned words": completion(bad_words=list("abcdefghijklmnopqrstuvwxyz")),
    "stops": completion(stop=["e", "a", "\n"], stop_token_ids=list(range(4000))),
    "all log-probabilities": completion(logprobs=20, prompt_logprobs=20, echo=True, prompt=LONG),
    "no room": completion(max_tokens=2**62, min_tokens=2**62),
    "coldest": completion(temperature=1e-300, top_p=1e-300, min_p=1),
    "hottest": completion(temperature=100, n=4),
    "most urgent": completion(priority=-100, prompt=LONG),
    "past the cache": completion(cache_prompt=False, prompt=LONG),
    "score": posted("/v1/score", json.dumps({"prompt": LONG, "top_logprobs": 20}).encode()),
    "tokens of 100 KB": posted("/tokenize", json.dumps({"prompt": LONG * 130}).encode()),
    "unknown response": posted("/v1/responses", b'{"input": "x", "previous_response_id": "resp_0"}'),
    "schema": chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
    "template of the request": chat(chat_template="{% for x in range(10**9) %}{{ x }}{% endfor %}"),
    "tools": chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {"$ref": "http://127.0.0.1:9/"}}}]),
    "image": chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/"}}]}]),
}
