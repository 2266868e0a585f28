"""Which names a server answers to. A page on another site can make a browser send requests here, by its own name (DNS
rebinding) or by ours; the headers Host and Origin give it away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from quire.errors import ConfigError
from quire.server.auth import Header
from quire.server.errors import ApiError, Refusal

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches a server bound to `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_guarded(host: str, *, has_keys: bool) -> None:
    """Raises ConfigError where a server without API keys would be bound wider than to this machine."""
    if not is_loopback(host) and not has_keys:
        raise ConfigError(
            "a server that other machines reach needs an API key",
            given=f"host {host}",
            limit="without a key: 127.0.0.1, ::1 and localhost",
            next_step="Pass --api-key-file, or leave --host out.",
        )


class AllowedHosts:
    """The names that Host and Origin may hold. A wildcard address has no name of its own, so that only `extra` limit it."""

    def __init__(self, host: str, extra: Sequence[str] = ()) -> None:
        own = (*_LOOPBACK_NAMES, host.lower())
        self._is_any = not extra and host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
        self._names = frozenset((*own, *(name.lower() for name in extra)))

    def check(self, headers: Iterable[Header]) -> None:
        """Raises ApiError (400 or 403) for a request whose headers name another server."""
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            raise ApiError(
                "the request has no header Host, or several", next_step="Send one.", refusal=Refusal(code="invalid_host")
            )
        origins = [_host_of_url(value) for name, value in headers if name == b"origin"]
        names = [_host_of(hosts[0]), *(name for name in origins if name is not None)]
        if not self._is_any and not self._names.issuperset(names):
            raise ApiError(
                "the header Host or Origin names another server than this one",
                next_step="Use the address that the server prints, or start it with --allowed-host NAME.",
                refusal=Refusal(status=403, code="host_not_allowed"),
            )


@lru_cache(maxsize=64)  # nearly all clients write one of two
def _host_of(header: bytes) -> str | None:
    """Returns the name in a Host header without its port; None for anything that is none."""
    return _host_of_url(b"http://" + header) if header and not set(b"/?#@\\") & set(header) else ""


def _host_of_url(url: bytes) -> str | None:
    """Returns the name in a URL of the web; None for other schemes, which no web page has, and "" for what is no URL."""
    try:
        parts = urlsplit(url.decode("ascii"))
        if parts.scheme not in ("http", "https"):
            return None if parts.scheme else ""
        return "" if parts.port == 0 else (parts.hostname or "").rstrip(".")  # a port that is no number raises
    except ValueError:
        return ""
