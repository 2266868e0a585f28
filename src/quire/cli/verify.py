"""`quire verify`: the five promises, checked on the user's model and machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from quire.cli.options import EngineChoice, engine_options

if TYPE_CHECKING:
    from quire.engine.verify import Check

BROKEN = 1
"""Exit code when a promise does not hold."""

_VARIED = ("kv_cache", "max_num_batched_tokens", "max_num_seqs")
"""Options that the checks set themselves."""


@click.command()
@engine_options
@click.option("--full", "is_full", is_flag=True, help="Replay the whole grid of 49 scenarios instead of one a circumstance.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def verify(ctx: click.Context, engine: EngineChoice, is_full: bool, as_json: bool) -> None:
    """Check the five promises on a model: the same bits cached, chunked, batched, warm and preempted.

    Exits with 1 if any of them does not hold.

    \b
    Example:
      quire verify
      quire verify -m Qwen/Qwen3-0.6B --dtype bfloat16
    """
    from quire.cli.display import err_console, print_json

    checks: list[Check] = []
    with err_console().status("Verifying") as status:
        for check in _checks(engine, is_full):
            checks.append(check)
            status.update(f"Verified: {check.name}")
    if as_json:
        print_json({"checks": [asdict(check) for check in checks], "has_passed": all(check.has_passed for check in checks)})
    else:
        _print(engine.model or "the bundled model", checks)
    if not all(check.has_passed for check in checks):
        ctx.exit(BROKEN)


def _checks(engine: EngineChoice, is_full: bool) -> Iterator[Check]:
    from quire.engine.options import engine_config
    from quire.engine.verify import verify as run_checks
    from quire.errors import ConfigError

    for name in _VARIED:
        if name in engine.options:
            raise ConfigError(f"--{name.replace('_', '-')} is one of the things verify varies", next_step="Leave it out.")
    return run_checks(engine.model, engine_config(engine.options), is_full=is_full)


def _print(model: str, checks: Sequence[Check]) -> None:
    from quire.cli.display import listing, out_console

    ordered = sorted(checks, key=lambda check: check.promise)
    rows = [(str(check.promise), check.name, "holds" if check.has_passed else "BROKEN", check.detail) for check in ordered]
    console = out_console()
    console.print(listing(f"Promises on {model}", ("promise>", "check", "result", "figures"), rows))
    num_broken = sum(not check.has_passed for check in checks)
    console.print(f"{len(checks)} checks, {num_broken} broken.", style="red" if num_broken else "green")
