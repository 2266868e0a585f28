"""`quire plan`: memory, contexts, FLOPs and times of a model before it is loaded, from a config.json alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from quire.cli.options import EngineChoice, OptionDecorator, count_of, engine_options, gathered
from quire.config import MAX_COUNT

_R = TypeVar("_R")
_CONFIG_SUFFIX = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What to plan for, and how to show it."""

    context: int | None
    concurrency: int
    no_measure: bool
    as_json: bool


_OPTIONS: tuple[OptionDecorator, ...] = (
    click.option(
        "--context",
        type=count_of("max_context"),
        help="Plan for requests of this many tokens. [default: the longest that is served]",
    ),
    click.option("--concurrency", type=click.IntRange(1, MAX_COUNT), default=1, help="Plan for this many at once. [default: 1]"),
    click.option("--no-measure", is_flag=True, help="Leave out times, for which the machine is measured for a second or two."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
)


def _plan_options(command: Callable[..., _R]) -> Callable[..., _R]:
    return gathered(command, _OPTIONS, "options", lambda values: PlanOptions(**values))


@click.command()
@click.argument("named", metavar="[MODEL]", required=False)
@engine_options
@_plan_options
def plan(named: str | None, engine: EngineChoice, options: PlanOptions) -> None:
    """Show what a model takes before it is loaded: weights, KV cache, contexts that fit, FLOPs and times.

    MODEL is a directory, a config.json, a GGUF file or a Hugging Face id, of which only config.json is downloaded; without it the
    bundled model. Options of the engine mean what they mean for `quire run` and `quire serve`, which use the same numbers.

    \b
    Example:
      quire plan path/to/config.json
      quire plan path/to/model --kv-format int8 --kv-memory 8GiB --context 8192 --concurrency 16
      quire plan Qwen/Qwen3-0.6B --quantize int4 --json
    """
    from quire.bench.forecast import measure_times, work_of
    from quire.cli.display import out_console, print_json
    from quire.cli.plan_view import plan_tables
    from quire.cli.planned import Planned, plan_json
    from quire.engine.options import engine_config
    from quire.engine.plan import AskedLoad, plan_memory
    from quire.models.described import describe

    model = _one_model(named, engine.model)
    described = describe(_find(model))
    asked = AskedLoad(context=options.context, concurrency=options.concurrency)
    memory = plan_memory(engine_config(engine.options), described.checkpoint, asked)
    planned = Planned(
        name=model or "bundled",
        described=described,
        memory=memory,
        work=work_of(memory),
        times=None if options.no_measure else measure_times(memory),
    )
    if options.as_json:
        print_json(plan_json(planned))
        return
    for part in plan_tables(planned):
        out_console().print(part)


def _one_model(named: str | None, option: str | None) -> str | None:
    if named is not None and option is not None:
        raise click.UsageError("Name one model, as an argument or with -m.")
    return named if option is None else option


def _find(model: str | None) -> Path:
    """Returns where the model is described: of a hub id only the config is fetched."""
    from quire.models.bundled import directory
    from quire.models.hub import CONFIG_ONLY, find_model

    if model is None:
        return directory()
    if model.endswith(_CONFIG_SUFFIX):
        return Path(os.path.expanduser(model))
    return find_model(model, wanted=CONFIG_ONLY)
