"""`quire serve`: the HTTP API of a model."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quire.cli.options import EngineChoice, Seconds, engine_options, gathered
from quire.config import ITL_TARGET_LIMITS_S
from quire.errors import ConfigError

if TYPE_CHECKING:
    from quire.server.observer import Observer
    from quire.server.service import Service
    from quire.server.serving import Access
    from quire.server.telemetry import Tracing

_MAX_TIMEOUT_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Where the server listens, who may ask, and what the model is called."""

    host: str
    port: int
    api_key_file: Path | None
    allowed_host: tuple[str, ...]
    served_model_name: tuple[str, ...]
    no_store: bool
    itl_target: float | None
    shutdown_timeout: float
    log_level: str
    log_format: str
    otel: bool


_SERVE_OPTIONS = (
    click.option(
        "--host", default="127.0.0.1", show_default=True, help="Address to listen at; any but this machine's needs a key."
    ),
    click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="Port; 0 takes any free one."),
    click.option(
        "--api-key-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Accept only requests with a key from this file, one per line; each of several is a tenant with a cache of its own. "
        "[default: the keys in QUIRE_API_KEY, else none]",
    ),
    click.option(
        "--allowed-host", multiple=True, metavar="NAME", help="Another name by which clients reach the server. Repeatable."
    ),
    click.option(
        "--served-model-name",
        multiple=True,
        metavar="NAME",
        help="A name of the model; others are refused. Repeatable. [default: its directory's, and any name is accepted]",
    ),
    click.option("--no-store", is_flag=True, help="Keep no responses: previous_response_id of /v1/responses finds none."),
    click.option(
        "--itl-target",
        type=Seconds(*ITL_TARGET_LIMITS_S),
        metavar="TIME",
        help="While a prompt is computed, keep the time between two tokens of running streams at this, such as 150ms. "
        "[default: as fast as the prompt allows]",
    ),
    click.option(
        "--shutdown-timeout",
        type=click.FloatRange(0, _MAX_TIMEOUT_S),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long what runs may go on after SIGTERM or Ctrl-C; a second one ends it at once.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        show_default=True,
        help="What is logged on standard error; info has a line for each request, without its text.",
    ),
    click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How lines look."),
    click.option("--otel", is_flag=True, help="Send a span for each request to OTEL_EXPORTER_OTLP_ENDPOINT (extra: otel)."),
)


@click.command()
@lambda command: gathered(command, _SERVE_OPTIONS, "serving", lambda values: ServeOptions(**values))
@engine_options
def serve(serving: ServeOptions, engine: EngineChoice) -> None:
    """Serve a model over HTTP, for clients of the OpenAI and Anthropic APIs.

    Requests are computed together, and each gets the answer that it would get alone. Prompts that begin alike are computed
    once. Point a client at http://127.0.0.1:8000/v1; docs/serve.md lists the endpoints, the limits and the errors.

    \b
    Example:
      quire serve
      quire serve -m path/to/model --port 8080 --served-model-name my-model
      quire serve --host 0.0.0.0 --api-key-file keys.txt
    """
    access = _access_of(serving)
    import asyncio

    from quire.server.logs import LogFormat, start_log
    from quire.server.telemetry import start_tracing

    tracing = start_tracing() if serving.otel else None
    log = start_log(serving.log_level, LogFormat(serving.log_format))
    try:
        was_loaded = asyncio.run(_serve(access, serving, engine, tracing))
    finally:
        if tracing is not None:
            tracing.close()
        log.close()
    if not was_loaded:
        _leave_at_once()


async def _serve(access: Access, serving: ServeOptions, choice: EngineChoice, tracing: Tracing | None) -> bool:
    from quire.cli.serve_view import show_listening, show_start
    from quire.server.observer import Observer
    from quire.server.serving import BACKLOG, Server, listen
    from quire.server.starting import serve_from_start

    observer = Observer(trace=None if tracing is None else tracing.note)
    with listen(access) as listener:
        port = listener.getsockname()[1]
        listener.listen(BACKLOG)  # a client may connect as soon as it has read the address
        show_listening(access, port)
        server = Server(None, access, serving.shutdown_timeout, observer)
        return await serve_from_start(
            server,
            listener,
            lambda: _load(serving, choice, observer),
            lambda service: show_start(service, access, port),
        )


def _leave_at_once() -> None:
    """Ends the process although a thread still loads the model, which nothing else can stop."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _load(serving: ServeOptions, choice: EngineChoice, observer: Observer) -> Service:
    """Loads the model, and does what is done once before a client waits for it."""
    from quire.cli.defaults import read_defaults
    from quire.cli.display import loading_bar
    from quire.cli.load import find_directory
    from quire.engine.async_engine import AsyncEngine
    from quire.server.service import ServedModel, Service

    directory = find_directory(choice.model)
    recommended = read_defaults(directory).recommended
    name = choice.model or "bundled"
    options = choice.options.copy()
    options["itl_target"] = serving.itl_target
    with loading_bar(f"Loading {name}") as on_progress:
        options["on_progress"] = on_progress
        engine = AsyncEngine(directory, **options)
    names = serving.served_model_name or (name if choice.model is None else _short_name(name),)
    model = ServedModel(names=names, is_chosen=bool(serving.served_model_name), recommended=recommended)
    service = Service(engine, model, observer=observer, keeps_responses=not serving.no_store)
    service.warm_up()
    return service


def _short_name(model: str) -> str:
    """Returns a Hugging Face id as it is, and of a path the last part."""
    return Path(model).resolve().name if Path(model).exists() else model


def _access_of(serving: ServeOptions) -> Access:
    from quire.environment import read_environment
    from quire.server.auth import read_key_file, read_keys
    from quire.server.serving import Access

    keys: tuple[str, ...] = ()
    text = read_environment().api_keys
    if serving.api_key_file is not None:
        keys = read_key_file(serving.api_key_file)
    elif text is not None:
        keys = read_keys(text, "QUIRE_API_KEY")
    for name in (*serving.served_model_name, *serving.allowed_host):
        if not name.isprintable() or not name.strip():
            raise ConfigError("a name is empty or has characters that cannot be printed", next_step="Choose another name.")
    return Access(host=serving.host, port=serving.port, keys=keys, names=serving.allowed_host)
