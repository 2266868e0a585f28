"""The five promises, checked on one model and this machine: what `quire verify` runs.

1 one answer          every scenario of `replay` equals the oracle bit by bit; any number of threads; blocks that were exported
                      and imported elsewhere; near the reference
2 no silent anything  a prompt that does not fit is refused, not shortened
3 one formula         KV memory is what the formula says, and admission draws its line exactly there
4 explainable cache   tokens reported as reused are exactly the tokens not computed
5 small and quick     importing Quire loads no torch and takes a fraction of a second
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from quire.config import DType, EngineConfig, ExecutorKind, KVCacheMode, KVFormat, PrefixCache, SchedulerConfig
from quire.engine.loading import build_executor, load_executor
from quire.engine.resolve import settled
from quire.errors import ConfigError, PromptTooLongError, RequestError
from quire.executors.protocol import Executor, Float32Array
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.models.checkpoint import Checkpoint
from quire.request import Request, SamplingParams
from quire.sched.scheduler import Scheduler
from quire.units import format_bytes
from quire.verify.blocks import export_prompt, finish_prompt
from quire.verify.replay import (
    NUM_NEIGHBORS,
    ORACLE,
    Prefix,
    Replay,
    Scenario,
    blocks_needed,
    grid,
    longest_company,
    replay,
    took_place,
)

PROMPT_TOKENS = 70  # or two blocks and a bit, if blocks are larger: a warm prefix needs a full block
NEW_TOKENS = 8
FLOAT32_BOUND = 1e-4  # of the largest logit: another order of sums
BFLOAT16_BOUND = 5e-2  # root mean square: native also rounds the inputs of matrix products, the reference does not
IMPORT_LIMIT_S = 0.2

_IMPORT_PROBE = """
import sys, time
start = time.perf_counter()
import quire
print(time.perf_counter() - start, "torch" in sys.modules)
"""

_CHUNKED = tuple(Scenario(chunk=chunk) for chunk in (1, 7, 64))
_QUICK: tuple[tuple[str, Scenario], ...] = (
    ("cached = not cached", Scenario()),
    *(("chunked = whole", scenario) for scenario in _CHUNKED),
    ("warm = cold", Scenario(prefix=Prefix.WARM)),
    ("batched = alone", Scenario(num_neighbors=NUM_NEIGHBORS)),
    ("preempted = undisturbed", Scenario(chunk=7, is_preempted=True)),
    ("all at once", Scenario(chunk=7, prefix=Prefix.WARM, num_neighbors=NUM_NEIGHBORS, is_preempted=True)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding: which promise, what was compared, whether it held, and the figures."""

    promise: int
    name: str
    has_passed: bool
    detail: str


def verify(model: str | Path | None, config: EngineConfig, *, is_full: bool = False) -> Iterator[Check]:
    """Yields the checks as they are made; `is_full` replays the whole grid instead of one scenario a circumstance.

    Raises what loading the model raises, and ConfigError for an executor other than native, which does not promise equal
    bits, and for a context or KV memory too small for the workload.
    """
    cache = replace(config.cache, mode=KVCacheMode.PAGED, prefix_cache=PrefixCache.ON)
    checkpoint, executor, resolved = load_executor(model, replace(config, cache=cache, scheduler=SchedulerConfig()))
    kind = settled(resolved.executor, "executor")
    if kind is not ExecutorKind.NATIVE:
        raise ConfigError(
            f"the {kind.value} executor is accurate but does not promise equal bits",
            next_step="Install Quire where a C++17 compiler is, and verify the native executor.",
        )
    prompt = _prompt(executor, settled(resolved.max_context, "max_context"))
    oracle = replay(executor, ORACLE, prompt, NEW_TOKENS)
    scenarios = tuple(("grid", scenario) for scenario in grid()) if is_full else _QUICK
    yield from _check_scenarios(executor, oracle, prompt, scenarios)
    yield _check_explained(executor, prompt)
    yield from _check_limits(executor, resolved)
    yield _check_memory(executor)
    blocks = export_prompt(executor, prompt)
    del executor  # one copy of the weights at a time
    yield from _check_another(checkpoint, resolved, oracle, prompt, blocks)
    yield _check_reference(checkpoint, resolved, oracle, prompt)
    yield _check_import()


def _prompt(executor: Executor, max_context: int) -> tuple[int, ...]:
    block_size = executor.layout.block_size
    num_prompt = max(PROMPT_TOKENS, 2 * block_size + 6)
    num_tokens = longest_company(num_prompt + NEW_TOKENS, block_size)
    needed = blocks_needed(num_prompt + NEW_TOKENS, block_size)
    if max_context < num_tokens:
        raise ConfigError(
            "the context is too short to verify this model",
            given=max_context,
            limit=f"at least {num_tokens} tokens",
            next_step="Leave max_context out, or raise kv_memory.",
        )
    if executor.num_blocks < needed:
        raise ConfigError(
            "the KV memory is too small to verify this model",
            given=f"{executor.num_blocks} blocks",
            limit=f"{needed} blocks, {format_bytes(needed * executor.layout.bytes_per_block)}",
            next_step="Raise kv_memory.",
        )
    return tuple(np.random.default_rng(0).integers(0, executor.spec.vocab_size, num_prompt).tolist())


def _check_scenarios(
    executor: Executor, oracle: Replay, prompt: Sequence[int], named: Sequence[tuple[str, Scenario]]
) -> Iterator[Check]:
    for name, group in groupby(named, key=lambda pair: pair[0]):
        scenarios = [scenario for _, scenario in group]
        faults = [fault for scenario in scenarios if (fault := _fault(executor, oracle, prompt, scenario)) is not None]
        detail = "; ".join(faults) if faults else _compared(oracle, len(scenarios))
        yield Check(promise=1, name=name, has_passed=not faults, detail=detail)


def _fault(executor: Executor, oracle: Replay, prompt: Sequence[int], scenario: Scenario) -> str | None:
    found = replay(executor, scenario, prompt, NEW_TOKENS)
    if not _is_same(found, oracle):
        return f"{scenario}: differs"
    return None if took_place(found, scenario) else f"{scenario}: could not be brought about"


def _check_another(
    checkpoint: Checkpoint, config: EngineConfig, oracle: Replay, prompt: Sequence[int], blocks: Sequence[bytes]
) -> Iterator[Check]:
    """An executor with another number of threads computes the same, and goes on from blocks that the first one exported."""
    threads = settled(config.threads, "threads")
    other = 1 if threads > 1 else 2
    executor = build_executor(checkpoint, replace(config, threads=other))
    has_passed = _is_same(replay(executor, Scenario(chunk=7), prompt, NEW_TOKENS), oracle)
    detail = f"{other} and {threads} threads, {_compared(oracle, 1) if has_passed else 'logits differ'}"
    yield Check(promise=1, name="any number of threads", has_passed=has_passed, detail=detail)
    has_passed = finish_prompt(executor, prompt, blocks).tobytes() == oracle.logits[0].tobytes()
    num_bytes = sum(map(len, blocks))
    detail = f"{len(blocks)} blocks, {num_bytes:,} bytes, {'equal bit for bit' if has_passed else 'logits differ'}"
    yield Check(promise=1, name="exported and imported = computed", has_passed=has_passed, detail=detail)


def _check_reference(checkpoint: Checkpoint, config: EngineConfig, oracle: Replay, prompt: Sequence[int]) -> Check:
    one_request = replace(config.scheduler, max_num_seqs=1)
    reference = build_executor(checkpoint, replace(config, executor=ExecutorKind.REFERENCE, scheduler=one_request))
    expected = replay(reference, Scenario(), prompt, 1).logits[0]
    found = oracle.logits[0]
    if config.dtype is DType.FLOAT32 and config.cache.format is KVFormat.FLOAT32:
        error, bound, kind = float(np.abs(found - expected).max() / np.abs(expected).max()), FLOAT32_BOUND, "largest"
    else:
        error, bound, kind = _mean_error(found, expected), BFLOAT16_BOUND, "mean"
    return Check(
        promise=1,
        name="near the reference executor",
        has_passed=error <= bound,
        detail=f"{kind} relative error {error:.1e}, bound {bound:.0e}",
    )


def _check_limits(executor: Executor, config: EngineConfig) -> Iterator[Check]:
    """The scheduler accepts exactly what context and pool hold, and refuses the next larger request."""
    max_context, size = settled(config.max_context, "max_context"), executor.layout.block_size
    too_long = _refusal(executor.num_blocks, size, max_context, num_prompt=max_context, num_new=1)
    yield Check(
        promise=2,
        name="a prompt that does not fit is refused",
        has_passed=isinstance(too_long, PromptTooLongError),
        detail=str(too_long or "it was accepted"),
    )
    for name, num_blocks, context in (("context", executor.num_blocks, max_context), ("pool", 2, 3 * size)):
        limit = min(context, num_blocks * size)
        fits = _refusal(num_blocks, size, context, num_prompt=limit - 1, num_new=1) is None
        refused = _refusal(num_blocks, size, context, num_prompt=limit - 1, num_new=2) is not None
        detail = f"{limit} tokens {'fit' if fits else 'are refused'}, {limit + 1} {'are refused' if refused else 'are accepted'}"
        yield Check(promise=3, name=f"admission by the {name}", has_passed=fits and refused, detail=detail)


def _refusal(num_blocks: int, block_size: int, max_context: int, *, num_prompt: int, num_new: int) -> RequestError | None:
    """Returns why a scheduler over such a pool refuses a request, or None if it takes it."""
    manager = KVCacheManager(BlockPool(num_blocks, block_size), fingerprint=b"verify")
    scheduler = Scheduler(SchedulerConfig(), manager, max_context=max_context)
    sampling = SamplingParams(temperature=0, max_tokens=num_new)
    try:
        scheduler.submit(Request(request_id="probe", prompt_token_ids=(0,) * num_prompt, sampling=sampling))
    except RequestError as error:
        return error
    return None


def _check_memory(executor: Executor) -> Check:
    layout = executor.layout
    planned = executor.num_blocks * layout.bytes_per_block + executor.num_own_tiles * layout.bytes_per_own_tile
    taken = executor.kv_bytes
    return Check(
        promise=3,
        name="KV memory is what the formula says",
        has_passed=0 <= taken - planned < layout.bytes_per_block,
        detail=f"planned {planned:,} bytes, taken {taken:,}",
    )


def _check_explained(executor: Executor, prompt: Sequence[int]) -> Check:
    warm = replay(executor, Scenario(prefix=Prefix.WARM), prompt, NEW_TOKENS)
    needed = len(prompt) + NEW_TOKENS - 1
    return Check(
        promise=4,
        name="reused + computed = all",
        has_passed=warm.num_cached_tokens > 0 and warm.num_cached_tokens + warm.num_computed_tokens == needed,
        detail=f"{warm.num_cached_tokens} reused + {warm.num_computed_tokens} computed of {needed} tokens",
    )


def _check_import() -> Check:
    """Imports Quire in fresh interpreters; the best of three is what the machine can do."""
    results = [
        subprocess.run([sys.executable, "-c", _IMPORT_PROBE], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    best = min(float(seconds) for seconds, _ in results)
    has_torch = any(word == "True" for _, word in results)
    return Check(
        promise=5,
        name="import quire",
        has_passed=best <= IMPORT_LIMIT_S and not has_torch,
        detail=f"{best:.3f} s, limit {IMPORT_LIMIT_S} s, torch {'loaded' if has_torch else 'not loaded'}",
    )


def _is_same(found: Replay, expected: Replay) -> bool:
    return found.logits.shape == expected.logits.shape and found.logits.tobytes() == expected.logits.tobytes()


def _compared(oracle: Replay, num_replays: int) -> str:
    return f"{num_replays * oracle.logits.size:,} logits equal bit for bit"


def _mean_error(found: Float32Array, expected: Float32Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
