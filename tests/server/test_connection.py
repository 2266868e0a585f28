"""Clients that take too much: large or slow heads, slow bodies, answers left unread, too many connections."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from quire.server.limits import Limits
from support.served import Served, served

POST = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LIMITS = Limits(head_bytes=4096, head_fields=20, write_s=0.5, connections_per_address=8)


@pytest.fixture(scope="module")
def strict() -> Iterator[Served]:
    """A server with small limits of size."""
    with served(limits=LIMITS, send_buffer_bytes=8192) as running:
        yield running


@pytest.fixture(scope="module")
def hasty() -> Iterator[Served]:
    """A server that waits for nobody."""
    with served(limits=Limits(head_s=0.3, body_grace_s=0.3, keep_alive_s=1.0)) as running:
        yield running


def _connect(server: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def _answer(connection: socket.socket) -> bytes:
    """Returns all that a connection brings until the server closes it."""
    pieces = []
    try:
        while piece := connection.recv(65_536):
            pieces.append(piece)
    except ConnectionResetError:
        pass  # closed while something was still unread
    return b"".join(pieces)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 5000 + b"\r\n\r\n",
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 30 + b"\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2_000_000,
    ],
)
def test_large_head_is_refused(strict: Served, head: bytes) -> None:
    with _connect(strict) as connection:
        with suppress(OSError):  # refused before all was sent
            connection.sendall(head)
        assert b"HTTP/1.1 200 " not in _answer(connection)


def test_head_of_any_size_below_the_limit_is_read(strict: Served) -> None:
    with _connect(strict) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + b"x" * 3900 + b"\r\n\r\n")
        assert _answer(connection).startswith(b"HTTP/1.1 200 ")


def test_refusal_of_a_large_head_is_an_error_of_the_api(strict: Served) -> None:
    with _connect(strict) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 5000 + b"\r\n\r\n")
        head, _, body = _answer(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert "4096 bytes" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: loc", b"\r\n\r\n"])
def test_head_that_does_not_come_is_refused(hasty: Served, sent: bytes) -> None:
    with _connect(hasty) as connection:
        connection.sendall(sent)
        assert _answer(connection).startswith(b"HTTP/1.1 408 ")


def test_second_head_on_a_connection_has_a_time_limit_too(hasty: Served) -> None:
    with _connect(hasty) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        assert b"HTTP/1.1 408 " in _answer(connection)


def test_idle_connection_is_closed(hasty: Served) -> None:
    with _connect(hasty) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert _answer(connection).count(b"HTTP/1.1 ") == 1


def test_body_that_drips_is_cut(hasty: Served) -> None:
    head = POST + b"Content-Length: 1000000\r\n\r\n"
    with _connect(hasty) as connection:
        connection.sendall(head + b"{")
        assert b"HTTP/1.1 200 " not in _answer(connection)


def test_what_is_no_http_is_refused(strict: Served) -> None:
    for sent in (b"\x16\x03\x01\x02\x00", b"HELLO\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n"):
        with _connect(strict) as connection:
            connection.sendall(sent)
            assert _answer(connection).startswith(b"HTTP/1.1 400 ")


def test_one_connection_too_many_is_refused_and_room_comes_back(strict: Served) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    held = [_connect(strict) for _ in range(LIMITS.connections_per_address)]
    with _connect(strict) as refused:
        assert _answer(refused).startswith(b"HTTP/1.1 429 ")
    for connection in held:
        connection.close()
    deadline = time.monotonic() + 60
    while True:
        with _connect(strict) as connection:
            connection.sendall(request)
            if _answer(connection).startswith(b"HTTP/1.1 200 "):
                return
        assert time.monotonic() < deadline


def test_connection_whose_answer_is_left_unread_is_closed(strict: Served) -> None:
    body = json.dumps({"prompt": "a b c " * 30_000, "return_token_strs": True}).encode()
    head = POST + b"Content-Length: %d\r\n\r\n"
    with _connect(strict) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head % len(body) + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        deadline = time.monotonic() + 60
        while strict.server.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.05)
