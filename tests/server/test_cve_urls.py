"""Patterns of this year's CVEs of other servers: keys avoided by odd URLs, files read by odd paths, labels from clients."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from quire.server.serving import Access
from support.asgi_client import Asked, World, opened_world, posting
from support.served import Served, served

KEY = "a-key-of-the-suite"
SECRET_PATHS = ("/v1/models", "/v1/chat/completions", "/tokenize", "/detokenize", "/metrics", "/openapi.json", "/version", "/")


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    with served(access=Access(port=0, keys=(KEY,)), options={"max_context": 256}) as running:
        yield running


def answer_of(server: Served, head: str) -> tuple[int, bytes]:
    """Returns status and rest of the answer to a head written by hand, which no client corrects."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode("latin-1"))
        pieces = []
        while piece := connection.recv(65_536):
            pieces.append(piece)
    content = b"".join(pieces)
    return int(content.split(b" ", 2)[1]), content


def asked(server: Served, target: str, *headers: str, method: str = "GET") -> int:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers, "Content-Length: 0", "Connection: close", "", ""]
    return answer_of(server, "\r\n".join(lines))[0]


# -- the key is asked for whatever the URL looks like -----------------------------------------

TARGETS = {
    "absolute_form": "http://127.0.0.1/v1/models",
    "absolute_form_of_a_public_path_elsewhere": "http://evil.example/v1/models?/health",
    "absolute_form_with_credentials": "http://health@127.0.0.1/v1/models",
    "two_slashes": "//v1/models",
    "slashes_inside": "/v1//models",
    "public_path_then_up": "/health/../v1/models",
    "public_path_then_encoded_up": "/health/%2e%2e/v1/models",
    "public_path_then_twice_encoded_up": "/health/%252e%252e/v1/models",
    "encoded_letters": "/%76%31/%6d%6f%64%65%6c%73",
    "encoded_slash": "/v1%2fmodels",
    "backslashes": "\\v1\\models",
    "backslash_behind_a_public_path": "/health\\..\\v1\\models",
    "public_path_with_a_parameter": "/health;x=/v1/models",
    "public_path_with_a_tail": "/health/v1/models",
    "public_path_in_capitals": "/Health",
    "public_path_and_nothing": "/health%00",
    "public_path_and_a_space": "/health%20",
    "public_path_and_a_question_mark": "/health%3f",
    "public_path_in_the_query": "/v1/models?path=/health",
    "public_path_in_the_fragment": "/v1/models#/health",
    "unicode_that_folds": "/v1/model\xc5\xbf",
    "dot_segments": "/./v1/./models",
    "empty_segment_before_a_public_path": "//health",
    "trailing_slash": "/ready/",
}


@pytest.mark.parametrize("name", TARGETS)
def test_vllm_cve_2026_48746_no_url_avoids_the_key(keyed: Served, name: str) -> None:
    """Also starlette's CVE-2026-48710: the decision is about the raw path that is routed."""
    for method in ("GET", "POST", "DELETE"):
        assert asked(keyed, TARGETS[name], method=method) in (400, 401)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "BREW", "get"])
def test_vllm_cve_2026_48746_no_method_avoids_the_key(keyed: Served, method: str) -> None:
    for path in SECRET_PATHS:
        target = "localhost:80" if method == "CONNECT" else path
        assert asked(keyed, target, method=method) in (400, 401)


@pytest.mark.parametrize(
    "host",
    [
        "localhost/health?",
        "localhost/health#",
        "health",
        "localhost\\@x",
        "x@localhost",
        "localhost:80:80",
        "",
        " ",
        "[::1",
        "localhost%00",
    ],
)
def test_starlette_cve_2026_48710_no_host_avoids_the_key(keyed: Served, host: str) -> None:
    head = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert answer_of(keyed, head)[0] in (400, 401, 403)


@pytest.mark.parametrize(
    "header",
    [
        "X-Original-URL: /health", "X-Rewrite-URL: /health", "X-Forwarded-Path: /health", "X-Forwarded-Prefix: /health",
        "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "Forwarded: for=127.0.0.1;host=localhost", 
        "X-HTTP-Method-Override: OPTIONS",
        "X-Forwarded-Proto: https", "Upgrade: websocket", "Upgrade: h2c", "Expect: 100-continue",
    ],
)  # fmt: skip
def test_vllm_cve_2026_48746_no_header_of_a_proxy_avoids_the_key(keyed: Served, header: str) -> None:
    assert asked(keyed, "/v1/models", header) == 401


@pytest.mark.parametrize(
    "path",
    [
        "/tokenize",
        "/detokenize",
        "/v1/messages/count_tokens",
        "/v1/responses/input_tokens",
        "/v1/score",
        "/metrics",
        "/openapi.json",
    ],
)
def test_vllm_cve_2026_71486_side_routes_need_the_key(keyed: Served, path: str) -> None:
    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        assert asked(keyed, path, method=method) == 401


def test_existence_of_a_path_is_told_to_those_with_a_key(keyed: Served) -> None:
    heads = [f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" for path in ("/v1/models", "/nothing")]
    first, second = (answer_of(keyed, head)[1].partition(b"\r\n\r\n")[2] for head in heads)
    assert first == second


# -- with a key: nothing is read from disk, and no spelling leads to another path ---------------------

ODD_PATHS = (
    "/..%5c..%5cetc%5cpasswd", "/%2e%2e/%2e%2e/etc/passwd", "/..\\..\\etc\\passwd", "/static/../../etc/passwd", 
    "/C:%5cWindows%5cwin.ini",
    "/v1/models/..%2f..%2fetc%2fpasswd", "/%00", "/file:///etc/passwd", "/favicon.ico%00.html", "/.git/config", "/index.html/..",
)  # fmt: skip


@pytest.mark.parametrize("path", ODD_PATHS)
def test_lm_studio_cve_2026_119979_no_path_leads_to_a_file(keyed: Served, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {KEY}\r\nConnection: close\r\n\r\n"
    status, content = answer_of(keyed, head)
    assert status in (400, 404)
    assert b"root:" not in content


@pytest.mark.parametrize(
    "ranges", ["bytes=0-0", "bytes=" + ",".join(f"{number}-" for number in range(2000)), "bytes=-1", "bytes=x", "bytes=9-1"]
)
def test_starlette_cve_2025_62727_ranges_change_nothing(keyed: Served, ranges: str) -> None:
    head = f"GET / HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {KEY}\r\nRange: {ranges}\r\nConnection: close\r\n\r\n"
    status, content = answer_of(keyed, head)
    assert status == 200
    assert b"content-range" not in content.lower()


@pytest.mark.parametrize(
    "path", ["//v1/models", "/v1/models/", "/V1/models", "/v1/%2e/models", "/v1/./models", "/health/../version", "/health/"]
)
def test_odd_spelling_of_a_path_is_another_path(keyed: Served, path: str) -> None:
    assert asked(keyed, path, f"X-Api-Key: {KEY}") in (400, 404)


# -- labels of metrics -------------------------------------------------------------------


def test_pysec_2026_4325_no_client_makes_a_series() -> None:
    """Random methods, paths and models leave the number of series as it is."""
    rng = random.Random(4)
    with opened_world({"max_context": 256}) as world:
        for count in (100, 3000):
            before = series_of(world)
            world.ask(*(odd_request(rng) for _ in range(count)))
            world.ask(*(posting("/v1/completions", {"model": rng.randbytes(5).hex(), "prompt": "a"}) for _ in range(10)))
        after = series_of(world)
    assert after == before
    assert not any("BREW" in name or "/v1/models/x" in name for name in after)


def odd_request(rng: random.Random) -> Asked:
    method = rng.choice(("GET", "POST", "BREW", "".join(rng.choices("ABCDEFGH", k=5)), ""))
    tail = "/" + "".join(rng.choices("abc/%20.\\\xff", k=9))
    path = rng.choice((tail, f"/v1/models/x{tail}", "/v1/chat/completions", f"/v1/responses/x{tail}", f"/health{tail}", ""))
    return Asked(method=method, path=path, body=b"{}")


def series_of(world: World) -> set[str]:
    (reply,) = world.ask(Asked(method="GET", path="/metrics"))
    lines = reply.body.decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if line and not line.startswith("#")}
