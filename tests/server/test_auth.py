"""Keys: everything but the two public paths needs one, decided before anything is looked up."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx2
import openai
import pytest

from quire.errors import ConfigError
from quire.server.auth import MAX_KEYS, MIN_KEY_CHARS, PUBLIC_PATHS, ApiKeys, read_key_file, read_keys
from quire.server.serving import Access, listen
from support.served import Served, served

get, post = (partial(ask, timeout=60) for ask in (httpx2.get, httpx2.post))
KEYS = ("first-secret-key", "second-secret-key")
ODD_TARGETS = (
    "//v1/models", "/v1//models", "/v1/models/", "/./v1/models", "/health/../v1/models", "/health/%2e%2e/v1/models",
    "/%76%31/models", "/v1/models?x=/health", "/v1/models#/health", "/health;/v1/models", "/health/", "/HEALTH", "/health%00",
    "/ready/x", "/v1/models%2f", "/\\v1\\models", "http://evil.example/health/x", "http://evil.example/v1/models",
    "/nothing", "/", "/tokenize", "/metrics",
)  # fmt: skip


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    with served(access=Access(port=0, keys=KEYS)) as running:
        yield running


def _status(server: Served, head: str) -> int:
    """Returns the status of a request written by hand, which no client corrects."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode("latin-1"))
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("target", ODD_TARGETS)
def test_no_spelling_of_a_path_avoids_the_key(guarded: Served, target: str) -> None:
    for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "TRACE"):
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        assert _status(guarded, head) in (400, 401)


@pytest.mark.parametrize(
    "header",
    [
        "", "Authorization: Bearer", "Authorization: Bearer wrong-secret-key", "Authorization: Basic first-secret-key",
        "Authorization: first-secret-key", "X-Api-Key: wrong", "Authorization: Bearer first-secret-ke",
        "Authorization: Bearer first-secret-key\r\nX-Api-Key: wrong", "Cookie: key=first-secret-key",
        "Authorization: Bearer first-secret-key second-secret-key", "Authorization: Bearer \xff\xfe",
    ],
)  # fmt: skip
def test_wrong_key_is_refused(guarded: Served, header: str) -> None:
    extra = f"{header}\r\n" if header else ""
    assert _status(guarded, f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{extra}Connection: close\r\n\r\n") == 401


def test_known_keys_are_accepted_as_bearer_and_as_header(guarded: Served) -> None:
    for key in KEYS:
        for headers in (
            {"authorization": f"bearer {key}"},
            {"x-api-key": key},
            {"x-api-key": key, "authorization": "Bearer x"},
            {"x-api-key": "", "authorization": f"Bearer {key}"},
        ):
            assert get(f"{guarded.url}/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("path", sorted(PUBLIC_PATHS))
def test_public_paths_need_no_key(guarded: Served, path: str) -> None:
    assert get(guarded.url + path).status_code == 200


def test_client_without_the_key_gets_an_authentication_error(guarded: Served) -> None:
    client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong-secret", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_tenants_share_no_cache(guarded: Served) -> None:
    prompt = {"prompt": "A long text that fills more than one block of the cache: " + "word " * 60, "max_tokens": 1}
    cached = [
        post(f"{guarded.url}/v1/completions", json=prompt, headers={"x-api-key": key}).json()["usage"]
        for key in (KEYS[0], KEYS[0], KEYS[1])
    ]
    first, again, other = (usage["prompt_tokens_details"]["cached_tokens"] for usage in cached)
    assert (first, other) == (0, 0)
    assert again > 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Host: localhost", 200),
        ("Host: LOCALHOST:8000", 200),
        ("Host: 127.0.0.1:1", 200),
        ("Host: [::1]:8000", 200),
        ("Host: localhost.", 200),
        ("Host: evil.example", 403),
        ("Host: localhost.evil.example", 403),
        ("Host: evil@localhost", 403),
        ("Host: localhost@evil.example", 403),
        ("Host: localhost/x", 403),
        ("Host: ", 403),
        ("Host: [::1", 403),
        ("Host: localhost:port", 403),
        ("Host: l\xf6calhost", 403),
        ("", 400),
        ("Host: localhost\r\nHost: evil.example", 400),
        ("Host: localhost\r\nOrigin: http://evil.example", 403),
        ("Host: localhost\r\nOrigin: null", 403),
        ("Host: localhost\r\nOrigin: http://localhost:3000", 200),
        ("Host: localhost\r\nOrigin: vscode-file://vscode-app", 200),
    ],
)
def test_only_this_servers_names_are_answered(server: Served, headers: str, status: int) -> None:
    head = f"GET /health HTTP/1.1\r\n{headers}{'' if not headers else chr(13) + chr(10)}Connection: close\r\n\r\n"
    assert _status(server, head) == status


def test_another_name_can_be_allowed() -> None:
    with served(access=Access(port=0, names=("Quire.Example",))) as running:
        for host, status in (("quire.example", 200), ("other.example", 403)):
            assert _status(running, f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n") == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])  # noqa: S104
def test_wide_address_without_a_key_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="needs an API key"):
        Access(host=host)
    assert Access(host=host, keys=KEYS).host == host


def test_taken_port_is_refused() -> None:
    with listen(Access(port=0)) as first:
        first.listen()
        with pytest.raises(ConfigError, match="cannot listen"):
            listen(Access(port=first.getsockname()[1]))


def test_key_file_holds_a_key_per_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n\nfirst-secret-key \nsecond-secret-key\nfirst-secret-key\n")
    assert read_key_file(file) == KEYS
    keys = ApiKeys(KEYS)
    tenants = {keys.tenant_of("/v1/models", [(b"x-api-key", key.encode())]) for key in KEYS}
    assert len(tenants) == 2
    assert ApiKeys(KEYS[:1]).tenant_of("/", [(b"x-api-key", KEYS[0].encode())]) == ""


@pytest.mark.parametrize(
    "text", ["", "# none\n", "short\n", "with a space in it\n", "ünprintable-key\n", "k" * (MIN_KEY_CHARS - 1)]
)
def test_text_without_a_usable_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        read_keys(text, "the file")


def test_key_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"k" * 70_000)
    for name in ("missing", "binary", "large"):
        with pytest.raises(ConfigError, match="API key file"):
            read_key_file(tmp_path / name)


def test_keys_are_bounded_since_each_is_a_tenant() -> None:
    keys = [f"key-{number:08}" for number in range(MAX_KEYS + 1)]
    assert len(read_keys("\n".join(keys[:-1]), "the file")) == MAX_KEYS
    with pytest.raises(ConfigError, match=f"{MAX_KEYS}"):
        read_keys("\n".join(keys), "the file")
