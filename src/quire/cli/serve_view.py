"""What `quire serve` prints when it is ready: where it listens, what it serves, and what to paste into a client."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import click

from quire import __version__
from quire.server.hosts import is_loopback
from quire.server.service import Service
from quire.server.serving import Access

_log = logging.getLogger("quire.server")


def show_listening(access: Access, port: int) -> None:
    """Writes into the log that the server is there before its model is."""
    _log.info("listening at %s, the model is loading", base_url(access, port))


def show_start(service: Service, access: Access, port: int) -> None:
    """Prints the lines on standard output."""
    for line in start_lines(service, access, port):
        click.echo(line)


def start_lines(service: Service, access: Access, port: int) -> Iterator[str]:
    """Yields what there is to know at the start: model, memory, keys, and how to ask."""
    engine, url = service.engine, base_url(access, port)
    layout, limits = engine.core.executor.layout, engine.core.scheduler.limits
    weights = engine.config.quantize.value if engine.config.quantize.value != "none" else _dtype_of(service)
    num_tokens = limits.num_blocks * limits.block_size
    yield f"Quire {__version__} serves {', '.join(service.model.names)} at {url}"
    yield f"weights {weights}, K/V {layout.format.value}, executor {engine.core.executor.name}"
    yield (
        f"KV cache: {num_tokens:,} tokens; a request may use {service.max_context:,}, "
        f"and {num_tokens // service.max_context:,} of that length fit at once"
    )
    yield f"API keys: {_keys_line(access)}"
    yield f"base URL for OpenAI clients: {url}/v1"
    yield f"base URL for Anthropic clients: {url}"
    auth = " -H 'Authorization: Bearer KEY'" if access.keys else ""
    message = '{"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}'
    yield f"try: curl {url}/v1/chat/completions{auth} -H 'Content-Type: application/json' -d '{message}'"


def base_url(access: Access, port: int) -> str:
    """Returns the URL of a server; one that listens at every address is reached by this machine's own."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(access.host, access.host)  # noqa: S104 - shown, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _keys_line(access: Access) -> str:
    if access.keys:
        return f"{len(access.keys)}"
    return "none needed, from this machine only" if is_loopback(access.host) else "none"


def _dtype_of(service: Service) -> str:
    dtype = service.engine.config.dtype
    return "auto" if dtype is None else dtype.value
