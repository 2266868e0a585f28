"""Shared options: what is given arrives, what is not stays the engine's, what cannot be is a usage error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from quire.cli.options import EngineChoice, SamplingOptions, Seconds, engine_options, sampling_options
from quire.config import COUNT_LIMITS, DType, ExecutorKind, KVFormat
from quire.engine.options import engine_config
from quire.errors import ConfigError
from quire.sampling import NUMBER_LIMITS


def _invoke(*arguments: str) -> tuple[Result, dict[str, Any]]:
    seen: dict[str, Any] = {}

    @click.command()
    @sampling_options
    @engine_options
    def probe(engine: EngineChoice, sampling: SamplingOptions) -> None:
        seen.update(engine=engine, sampling=sampling)

    return CliRunner().invoke(probe, arguments), seen


def _parse(*arguments: str) -> tuple[EngineChoice, SamplingOptions]:
    result, seen = _invoke(*arguments)
    assert result.exit_code == 0, result.output
    return seen["engine"], seen["sampling"]


def test_nothing_given_leaves_everything_to_the_engine() -> None:
    assert _parse() == (EngineChoice(model=None, options={}), SamplingOptions())


def test_sizes_and_words_arrive_as_the_engine_takes_them() -> None:
    engine, _ = _parse("--kv-memory", "1.5GiB", "--dtype", "bfloat16", "--kv-format", "float32", "--executor", "reference")
    config = engine_config(engine.options)
    assert config.cache.memory_bytes == 3 * 2**29
    assert (config.dtype, config.cache.format, config.executor) == (DType.BFLOAT16, KVFormat.FLOAT32, ExecutorKind.REFERENCE)


def test_stop_may_be_given_several_times() -> None:
    _, sampling = _parse("--stop", "a", "--stop", "b c", "--seed", "0", "--max-tokens", "3")
    assert (sampling.stop, sampling.seed, sampling.max_tokens) == (("a", "b c"), 0, 3)


def test_model_has_a_short_name() -> None:
    assert _parse("-m", "org/name")[0].model == "org/name"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dtype", "float8"),
        ("--kv-cache", "on"),
        ("--executor", "cuda"),
        ("--kv-memory", "much"),
        ("--kv-memory", "-1"),
        ("--threads", "0"),
        ("--max-context", "x"),
        ("--max-tokens", "0"),
        ("--temperature", "-1"),
        ("--top-p", "0"),
        ("--top-p", "1.5"),
        ("--min-p", "2"),
        ("--seed", "-1"),
        ("--seed", str(2**70)),
    ],
)
def test_what_cannot_be_is_a_usage_error_that_names_the_option(arguments: tuple[str, str]) -> None:
    result, seen = _invoke(*arguments)
    assert (result.exit_code, seen) == (2, {})
    assert arguments[0] in result.stderr


@pytest.mark.parametrize(
    ("arguments", "variable", "expected"),
    [
        ((), "", None),
        ((), "on", Path("/caches/quire/packed")),
        ((), "/elsewhere", Path("/elsewhere")),
        (("--packed-cache", "off"), "on", None),
        (("--packed-cache", "on"), "", Path("/caches/quire/packed")),
        (("--packed-cache", "here"), "on", Path("here")),
    ],
)
def test_packed_cache_is_a_word_or_a_directory(
    arguments: tuple[str, ...], variable: str, expected: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIRE_PACKED_CACHE", variable)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    engine, _ = _parse(*arguments)
    assert engine_config(engine.options).packed_cache == expected


@pytest.mark.parametrize("value", ["", " ", 7, "a\0b"])
def test_packed_cache_that_is_no_directory_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="packed_cache"):
        engine_config({"packed_cache": value})


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("--dtype", "half"), "Write float32, which holds every float16 weight exactly."),
        (("--dtype", "bf16"), "Write bfloat16."),
        (("--dtype", "float23"), "Write float32."),
        (("--quantize", "4bit"), "Write int4"),
        (("--kv-format", "fp8"), "Write int8"),
        (("--executor", "cuda"), "Write torch."),
        (("--kv-cache", "on"), "Write paged."),
    ],
)
def test_the_words_of_other_engines_are_answered_with_ours(arguments: tuple[str, str], meant: str) -> None:
    result, _ = _invoke(*arguments)
    assert result.exit_code == 2
    assert meant in result.stderr
    assert "Use one of: " in result.stderr


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repetition_penalty"])
def test_numbers_end_where_sampling_parameters_do(name: str) -> None:
    low, high = NUMBER_LIMITS[name]
    option = f"--{name.replace('_', '-')}"
    assert _invoke(option, str(high))[0].exit_code == 0
    for beyond in (low - 0.01, high + 0.01):
        assert _invoke(option, str(beyond))[0].exit_code == 2


def test_help_shows_the_limits() -> None:
    shown = " ".join(_invoke("--help")[0].output.split())
    low, high = NUMBER_LIMITS["temperature"]
    assert f"[{low}<=x<={high}]" in shown
    assert f"[1<=x<={COUNT_LIMITS['threads'][1]}]" in shown
    assert f"[x>={COUNT_LIMITS['max_context'][0]}]" in shown


@pytest.mark.parametrize(("given", "seconds"), [("150ms", 0.15), (0.2, 0.2), (1, 1.0), (None, None)])
def test_itl_target_is_a_time_or_seconds(given: Any, seconds: float | None) -> None:
    assert engine_config({"itl_target": given}).scheduler.itl_target_s == seconds


@pytest.mark.parametrize("given", ["150", "fast", "0ms", "61s", 0, -1.0, float("nan"), True, [1]])
def test_itl_target_that_is_no_time_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="Write it like 150ms"):
        engine_config({"itl_target": given})


@pytest.mark.parametrize(("text", "is_time"), [("150ms", True), ("0.15s", True), ("150", False), ("0ms", False), ("61s", False)])
def test_a_time_on_the_command_line_has_a_unit_and_limits(text: str, is_time: bool) -> None:
    seen: list[float] = []

    @click.command()
    @click.option("--itl-target", type=Seconds(0.001, 60))
    def probe(itl_target: float) -> None:
        seen.append(itl_target)

    result = CliRunner().invoke(probe, ["--itl-target", text])
    assert (result.exit_code, seen) == ((0, [0.15]) if is_time else (2, []))
    assert is_time or "--itl-target" in result.stderr
