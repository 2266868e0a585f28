"""`quire verify`: the five promises, checked on the user's model and machine; with --training, scores against the trainer's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from quire.cli.options import EngineChoice, engine_options

if TYPE_CHECKING:
    from quire.config import EngineConfig
    from quire.verify.promises import Check
    from quire.verify.training import TrainingCheck

BROKEN = 1
"""Exit code when a promise does not hold."""

_VARIED = ("kv_cache", "max_num_batched_tokens", "max_num_seqs")
"""Options that the checks set themselves."""


@click.command()
@engine_options
@click.option("--full", "is_full", is_flag=True, help="Replay the whole grid of 49 scenarios instead of one per circumstance.")
@click.option(
    "--training",
    "is_training",
    is_flag=True,
    help="Compare scores with teacher forcing as training computes it, without a cache; needs quire[torch].",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def verify(ctx: click.Context, engine: EngineChoice, is_full: bool, is_training: bool, as_json: bool) -> None:
    """Check the five promises on a model: the same bits cached, chunked, batched, warm and preempted.

    With --training, compare instead the log-probabilities of several texts as the torch decoder trains on them with what
    the native executor and the chosen one compute through the cache. Exits with 1 if anything does not hold.

    \b
    Example:
      quire verify
      quire verify -m Qwen/Qwen3-0.6B --dtype bfloat16
      quire verify --training --dtype float32 --executor torch
    """
    has_passed = _verify_training(engine, is_full, as_json) if is_training else _verify_promises(engine, is_full, as_json)
    if not has_passed:
        ctx.exit(BROKEN)


def _verify_promises(engine: EngineChoice, is_full: bool, as_json: bool) -> bool:
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
    return all(check.has_passed for check in checks)


def _verify_training(engine: EngineChoice, is_full: bool, as_json: bool) -> bool:
    from quire.cli.display import err_console, print_json
    from quire.errors import ConfigError
    from quire.verify.training import verify_training

    if is_full:
        raise ConfigError("--full belongs to the promises, not to --training", next_step="Leave one of the two out.")
    checks: list[TrainingCheck] = []
    with err_console().status("Comparing with the trainer") as status:
        for check in verify_training(engine.model, _config(engine)):
            checks.append(check)
            status.update(f"Compared: {check.executor}, {check.circumstance}")
    has_passed = all(check.has_passed for check in checks)
    if as_json:
        found = [asdict(check) | {"has_passed": check.has_passed} for check in checks]
        print_json({"checks": found, "has_passed": has_passed})
    else:
        _print_training(engine.model or "the bundled model", checks)
    return has_passed


def _checks(engine: EngineChoice, is_full: bool) -> Iterator[Check]:
    from quire.verify.promises import verify as run_checks

    return run_checks(engine.model, _config(engine), is_full=is_full)


def _config(engine: EngineChoice) -> EngineConfig:
    from quire.engine.options import engine_config
    from quire.errors import ConfigError

    for name in _VARIED:
        if name in engine.options:
            raise ConfigError(f"--{name.replace('_', '-')} is one of the things verify varies", next_step="Leave it out.")
    return engine_config(engine.options)


def _print(model: str, checks: Sequence[Check]) -> None:
    from quire.cli.display import listing, out_console

    ordered = sorted(checks, key=lambda check: check.promise)
    rows = [(str(check.promise), check.name, "holds" if check.has_passed else "BROKEN", check.detail) for check in ordered]
    console = out_console()
    console.print(listing(f"Promises on {model}", ("promise>", "check", "result", "figures"), rows))
    num_broken = sum(not check.has_passed for check in checks)
    console.print(f"{len(checks)} checks, {num_broken} broken.", style="red" if num_broken else "green")


def _print_training(model: str, checks: Sequence[TrainingCheck]) -> None:
    from quire.cli.display import listing, out_console

    headers = (
        "executor",
        "scored",
        "tokens>",
        "cached>",
        "logprob max>",
        "mean>",
        "loss max>",
        "mean>",
        "bits",
        "bound",
        "result",
    )
    console = out_console()
    console.print(listing(f"Scores of {model} against the trainer, absolute differences", headers, map(_training_row, checks)))
    num_failed = sum(not check.has_passed for check in checks)
    console.print(f"{len(checks)} comparisons, {num_failed} failed.", style="red" if num_failed else "green")


def _training_row(check: TrainingCheck) -> tuple[str, ...]:
    differences = (
        check.max_logprob_difference,
        check.mean_logprob_difference,
        check.max_loss_difference,
        check.mean_loss_difference,
    )
    bits = "" if check.has_same_bits is None else "same" if check.has_same_bits else "DIFFER"
    return (
        check.executor,
        check.circumstance,
        str(check.num_tokens),
        str(check.num_cached_tokens),
        *(f"{difference:.1e}" for difference in differences),
        bits,
        f"{check.bounded} logprob {check.bound:.1e}",
        "ok" if check.has_passed else "FAIL",
    )
