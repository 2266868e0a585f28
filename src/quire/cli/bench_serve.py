"""`quire bench serve`: a server under load, ours or any other that speaks one of the four APIs."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from quire.cli.options import EngineChoice, OptionDecorator, engine_options, gathered
from quire.errors import ConfigError

if TYPE_CHECKING:
    from quire.bench.serve import Arrivals, ServeWork
    from quire.bench.serve_http import Target
    from quire.bench.serve_report import Goal, ServeReport

_R = TypeVar("_R")
_COUNT = click.IntRange(min=1)
_POSITIVE = click.FloatRange(min=0, min_open=True)
_DEFAULT_DURATION_S, _DEFAULT_CONCURRENCY, _DEFAULT_RATE = 30.0, 8, 2.0
_GOAL = re.compile(r"(ttft|itl|tpot|e2e):([0-9]*\.?[0-9]+)(ms|s)")
_GOAL_FORM = "such as ttft:1s,itl:100ms, of ttft, itl, tpot and e2e"
_LATENCY_HEADERS = ("latency", "p50>", "p90>", "p99>", "max>", "mean>", "number>")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """Which server gets which load; None where something was not given."""

    url: str | None
    api_key_file: Path | None
    model_name: str | None
    api: str
    mode: str
    rate: float | None
    concurrency: int | None
    duration: float | None
    num_requests: int | None
    workload: str
    prompt_tokens: int
    shared_tokens: int
    output_tokens: int
    turns: int
    ignore_eos: bool
    goodput: str | None
    seed: int | None
    as_json: bool


_OPTIONS: tuple[OptionDecorator, ...] = (
    click.option("--url", help="A server that runs, such as http://127.0.0.1:8000. [default: one of our own for this run]"),
    click.option("--api-key-file", type=click.Path(path_type=Path), metavar="FILE", help="The key for --url is the first one."),
    click.option("--model-name", metavar="NAME", help="The model to ask for. [default: the first one that the server lists]"),
    click.option(
        "--api", type=click.Choice(["chat", "completions", "responses", "messages"]), default="chat", show_default=True,
        help="The API that clients speak.",
    ),
    click.option(
        "--mode", type=click.Choice(["open", "closed"]), default="closed", show_default=True,
        help="open: requests arrive at random times; closed: each client asks again when it has its answer.",
    ),
    click.option("--rate", type=_POSITIVE, help=f"Requests, or conversations, per second. [default: {_DEFAULT_RATE:g}]"),
    click.option("--concurrency", type=_COUNT, help=f"Clients. [default: {_DEFAULT_CONCURRENCY}]"),
    click.option(
        "--duration", type=_POSITIVE, metavar="SECONDS", help=f"How long requests are sent. [default: {_DEFAULT_DURATION_S:g}]"
    ),
    click.option("--num-requests", type=_COUNT, help="How many requests are sent. [default: as many as fit into --duration]"),
    click.option(
        "--workload", type=click.Choice(["fixed", "shared-prefix", "agent"]), default="fixed", show_default=True,
        help="fixed: prompts with nothing in common; shared-prefix: all begin alike; agent: conversations that grow.",
    ),
    click.option("--prompt-tokens", type=_COUNT, default=128, show_default=True, help="Tokens that each request adds."),
    click.option("--shared-tokens", type=_COUNT, default=512, show_default=True, help="Tokens that all begin with."),
    click.option("--output-tokens", type=_COUNT, default=32, show_default=True, help="Tokens of each answer."),
    click.option("--turns", type=_COUNT, default=4, show_default=True, help="Requests of a conversation of agent."),
    click.option(
        "--ignore-eos/--no-ignore-eos", default=True, show_default=True,
        help="Whether answers go on to their full length, with a field that not every server knows.",
    ),
    click.option("--goodput", metavar="GOAL", help=f"Count the requests that meet a goal, {_GOAL_FORM}."),
    click.option("--seed", type=click.IntRange(0), help="Draw the same words and times again. [default: random]"),
    click.option("--json", "as_json", is_flag=True, help="Print only the JSON line."),
)  # fmt: skip


def _load_options(command: Callable[..., _R]) -> Callable[..., _R]:
    return gathered(command, _OPTIONS, "load", lambda values: LoadOptions(**values))


@click.command()
@_load_options
@engine_options
def serve(load: LoadOptions, engine: EngineChoice) -> None:
    """Measure a server under load, as its clients see it.

    Latencies are those of the clients. In an open loop they count from the moment at which a request was to be sent, so that a
    server that falls behind cannot hide it. A server of our own runs as another process, with the options of `quire serve`.
    The last line is JSON.

    \b
    Example:
      quire bench serve --concurrency 16 --num-requests 200
      quire bench serve --mode open --rate 5 --duration 60 --goodput ttft:1s,itl:100ms
      quire bench serve --url http://127.0.0.1:8000 --api messages --workload agent
    """
    import asyncio

    from quire.bench.serve import measure_serving
    from quire.bench.serve_process import own_server
    from quire.cli.bench_view import progress_shown

    work = _work_of(load)
    _refuse_contradictions(load, engine)
    with ExitStack() as stack:
        on_progress = stack.enter_context(progress_shown())
        url = stack.enter_context(own_server(list(_arguments(engine)))) if load.url is None else load.url
        report = asyncio.run(measure_serving(_target_of(load, url), work, on_progress))
    _show(report, load, engine, work.seed)


def goal_of(text: str | None) -> Goal:
    """Returns what `ttft:1s,itl:100ms` limits; raises ConfigError for another form."""
    from quire.bench.serve_report import Goal

    limits: dict[str, float] = {}
    for part in [] if text is None else text.replace(" ", "").split(","):
        found = _GOAL.fullmatch(part)
        if found is None or f"{found[1]}_s" in limits:
            raise ConfigError("this goal is not understood", given=part, limit=_GOAL_FORM, next_step="Write it like that.")
        limits[f"{found[1]}_s"] = float(found[2]) / (1000 if found[3] == "ms" else 1)
    return Goal(**limits)


def _work_of(load: LoadOptions) -> ServeWork:
    from quire.bench.serve import ServeWork
    from quire.bench.serve_workloads import Lengths, Workload

    return ServeWork(
        arrivals=_arrivals_of(load),
        workload=Workload(load.workload),
        lengths=Lengths(
            num_prompt=load.prompt_tokens,
            num_shared=load.shared_tokens,
            num_output=load.output_tokens,
            num_turns=load.turns,
        ),
        api=load.api,
        model=load.model_name,
        goal=goal_of(load.goodput),
        seed=random.SystemRandom().randrange(2**32) if load.seed is None else load.seed,
        ignores_eos=load.ignore_eos,
    )


def _arrivals_of(load: LoadOptions) -> Arrivals:
    from quire.bench.serve import Arrivals

    is_unlimited = load.duration is None and load.num_requests is None
    is_open = load.mode == "open"
    return Arrivals(
        rate=(load.rate or _DEFAULT_RATE) if is_open else None,
        concurrency=None if is_open else (load.concurrency or _DEFAULT_CONCURRENCY),
        duration_s=_DEFAULT_DURATION_S if is_unlimited else load.duration,
        num_requests=load.num_requests,
    )


def _refuse_contradictions(load: LoadOptions, engine: EngineChoice) -> None:
    """Raises ConfigError for options that would be without effect."""
    if load.mode == "open" and load.concurrency is not None:
        raise ConfigError("an open loop has no number of clients", next_step="Leave out --concurrency, or pass --mode closed.")
    if load.mode == "closed" and load.rate is not None:
        raise ConfigError("a closed loop has no rate", next_step="Pass --mode open, or --concurrency instead of --rate.")
    if load.url is not None and (engine.model is not None or engine.options):
        raise ConfigError("--url names a server that runs already", next_step="Leave out --model and the options of the engine.")
    if load.url is None and (load.api_key_file is not None or load.model_name is not None):
        raise ConfigError("a server of our own needs neither a key nor a name", next_step="Pass --url, or leave them out.")


def _arguments(engine: EngineChoice) -> Iterator[str]:
    """Yields the arguments with which `quire serve` gets the same model and options."""
    if engine.model is not None:
        yield from ("--model", engine.model)
    for name, value in engine.options.items():
        yield from (f"--{name.replace('_', '-')}", str(value))


def _target_of(load: LoadOptions, url: str) -> Target:
    from quire.bench.serve_http import target_of
    from quire.environment import read_environment
    from quire.server.auth import read_key_file, read_keys

    text = read_environment().api_keys
    if load.api_key_file is not None:
        return target_of(url, read_key_file(load.api_key_file)[0])
    return target_of(url, None if text is None else read_keys(text, "QUIRE_API_KEY")[0])


def _show(report: ServeReport, load: LoadOptions, engine: EngineChoice, seed: int) -> None:
    from quire.cli.bench_view import circumstances
    from quire.cli.display import facts, listing, out_console, print_json

    if not load.as_json:
        console = out_console()
        console.print(facts(f"{load.workload}, {load.mode} loop, {load.api}", _facts(report)))
        rows = [
            (each.name, *map(_milliseconds, (each.p50, each.p90, each.p99, each.max, each.mean)), f"{each.num:,}")
            for each in report.latencies
        ]
        console.print(listing("latencies", _LATENCY_HEADERS, rows))
        for note in report.notes:
            console.print(note)
    options = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(load).items()}
    model = {} if load.url is not None else {"model": engine.model or "bundled", **engine.options}
    print_json(asdict(report) | circumstances({**options, **model, "seed": seed}))


def _facts(report: ServeReport) -> Mapping[str, str]:
    rows = {
        "answered": f"{report.num_answered:,} of {report.num_requests:,} in {report.duration_s:.1f} s",
        "requests": f"{report.requests_per_s:.2f} per second",
        "tokens": f"{report.prompt_tokens_per_s:,.0f} of prompts and {report.output_tokens_per_s:,.0f} of answers per second",
        "lengths": f"{report.mean_prompt_tokens:,.0f} tokens of a prompt and {report.mean_output_tokens:,.0f} of an answer",
        "cached": "not told" if report.cached_share is None else f"{report.cached_share:.1%} of the prompt tokens",
    }
    if report.goodput is not None:
        rows["goodput"] = f"{report.goodput:.2f} per second, {report.good_share or 0:.1%} of the requests"
    return rows | {f"error: {kind}": f"{count:,}" for kind, count in report.errors.items()}


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"
