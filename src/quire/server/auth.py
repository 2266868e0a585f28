"""API keys, compared in constant time, and a tenant for each of several."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from quire.errors import ConfigError
from quire.server.errors import ApiError, Refusal

PUBLIC_PATHS = frozenset({"/health", "/ready"})
"""What is answered without a key. Everything else needs one, whether it exists or not."""

MIN_KEY_CHARS = 8
MAX_KEYS = 256
"""Each is a tenant, and what a step takes grows with the tenants that have requests."""

_MAX_FILE_BYTES = 65_536
_BEARER = b"bearer "

Header = tuple[bytes, bytes]


class ApiKeys:
    """The keys that are accepted; without any, none is needed. Each of several is a tenant whose cache no other shares."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = tuple(sha256(key.encode()).digest() for key in keys)

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return not self._digests

    def tenant_of(self, path: str, headers: Iterable[Header]) -> str:
        """Returns the tenant of a request, "" where there is but one; raises ApiError (401) without a known key.

        `path` is the one that is routed. A key is a bearer token or the header `x-api-key`, which goes first unless it is empty.
        """
        if self.is_open or path in PUBLIC_PATHS:
            return ""
        given = sha256(_key_in(headers)).digest()
        known = [digest for digest in self._digests if hmac.compare_digest(digest, given)]
        if not known:
            raise ApiError(
                "this server needs an API key, and the request has none that is known",
                next_step='Send the header "Authorization: Bearer KEY".',
                refusal=Refusal(status=401, code="invalid_api_key", headers={"www-authenticate": "Bearer"}),
            )
        return known[0].hex()[:16] if len(self._digests) > 1 else ""


def _key_in(headers: Iterable[Header]) -> bytes:
    bearer = b""
    for name, value in headers:
        if name == b"x-api-key" and value.strip():
            return value.strip()
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            bearer = value[len(_BEARER) :].strip()
    return bearer


def read_keys(text: str, source: str) -> tuple[str, ...]:
    """Returns the keys in a text, one per line; empty lines and those that begin with # are none. Raises ConfigError."""
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not keys:
        raise ConfigError(f"{source} holds no API key", next_step="Write one key per line.")
    if len(keys) > MAX_KEYS:
        raise ConfigError(
            f"{source} holds too many API keys",
            given=len(keys),
            limit=MAX_KEYS,
            next_step="Give one key to several clients that may share a cache.",
        )
    for number, key in enumerate(keys, start=1):
        if len(key) < MIN_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                f"an API key in {source} cannot be used",
                given=f"key {number}",
                limit=f"at least {MIN_KEY_CHARS} printable ASCII characters without spaces",
                next_step="Make one, for example with: openssl rand -hex 24",
            )
    return keys


def read_key_file(path: Path) -> tuple[str, ...]:
    """Returns the keys in a file; raises ConfigError where it cannot be read or holds none."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError("the API key file cannot be read", given=reason, next_step="Check its path and permissions.") from error
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigError("the API key file is too large", limit=_MAX_FILE_BYTES, next_step="Write one key per line.")
    return read_keys(text, "the API key file")
