"""Four streams while a prompt of 8,000 tokens enters: their time between tokens, and the prompt's speed compared with alone.

    python benchmarks/shared_step.py benchmarks/configs/qwen3-0.6b.json --itl-target 150ms

Random weights of the shape, the engine thread of `AsyncEngine`, readers in an event loop. Tokens are timed where a server would
send them. Close other programs first. The aims: p99 of the time between tokens at most 1.2 times the target, and the prompt at
60 % or more of its speed alone.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import numpy as np

from quire.bench.harness import prompt_tokens
from quire.bench.random_model import random_checkpoint
from quire.engine.core import EngineCore
from quire.engine.driving import greedy
from quire.engine.engine_thread import EngineThread
from quire.engine.loading import build_executor
from quire.engine.options import engine_config
from quire.engine.readers import Deltas
from quire.engine.resolve import resolve
from quire.environment import read_memory
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.models.checkpoint import Checkpoint
from quire.sched.scheduler import Scheduler

_STREAM_PROMPT, _STREAM_TOKENS = 32, 8_000
_LEAD_TOKENS = 10
"""Tokens that every stream has before the prompt comes."""


class Stage:
    """An engine thread over random weights, and requests that are numbered."""

    def __init__(self, checkpoint: Checkpoint, options: argparse.Namespace) -> None:
        room = options.prompt + 64 + options.streams * (_STREAM_PROMPT + _STREAM_TOKENS)
        config = resolve(
            engine_config({"itl_target": options.itl_target, "kv_memory": options.kv_memory, "quantize": options.quantize}),
            checkpoint.spec,
            checkpoint.weights,
            read_memory(),
        )
        executor = build_executor(checkpoint, config)
        self.vocab_size = executor.spec.vocab_size
        num_blocks = min(executor.num_blocks, room // executor.layout.block_size)

        def make_scheduler() -> Scheduler:
            manager = KVCacheManager(BlockPool(num_blocks, executor.layout.block_size), fingerprint=b"bench")
            return Scheduler(config.scheduler, manager, max_context=num_blocks * executor.layout.block_size)

        self.thread = EngineThread(EngineCore(executor, None, make_scheduler, time.perf_counter))
        self._number = 0

    async def follow(self, num_prompt: int, num_new: int, times: list[float]) -> None:
        """Runs one request and notes the time of each of its tokens."""
        self._number += 1
        prompt = prompt_tokens(self.vocab_size, self._number, num_prompt)
        groups = self.thread.routed.check([greedy(f"r{self._number}", prompt, num_new)])
        deltas = Deltas(groups[0])
        waiting = self.thread.submit(groups, deltas)
        try:
            while not deltas.is_over:
                await waiting.until_ready()
                while deltas.is_ready and not deltas.is_over:
                    times += [time.perf_counter()] * len(deltas.take().outputs[0].token_ids)
        finally:
            self.thread.routed.leave([groups[0].request_id])

    async def prompt_s(self, num_prompt: int) -> float:
        """Returns the seconds until a prompt has its first token."""
        times: list[float] = []
        began = time.perf_counter()
        await self.follow(num_prompt, 1, times)
        return times[0] - began


async def measure(stage: Stage, options: argparse.Namespace) -> None:
    """Measures the prompt alone and beside streams, and prints both."""
    await stage.prompt_s(64)  # threads run and pages are mapped
    alone_s = await stage.prompt_s(options.prompt)
    print(f"alone: {options.prompt} tokens in {alone_s:.1f} s, {options.prompt / alone_s:.1f} tokens/s", flush=True)
    times: list[list[float]] = [[] for _ in range(options.streams)]
    streams = [asyncio.create_task(stage.follow(_STREAM_PROMPT, _STREAM_TOKENS, each)) for each in times]
    while min(len(each) for each in times) < _LEAD_TOKENS:
        await asyncio.sleep(0.05)
    began = time.perf_counter()
    beside_s = await stage.prompt_s(options.prompt)
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    inside = [np.array([each for each in stream if began <= each <= began + beside_s]) for stream in times]
    gaps_ms = 1000 * np.concatenate([np.diff(each) for each in inside])
    p50, p90, p99 = (float(np.percentile(gaps_ms, share)) for share in (50, 90, 99))
    print(
        f"beside {options.streams} streams: {beside_s:.1f} s, {options.prompt / beside_s:.1f} tokens/s, {alone_s / beside_s:.0%}"
    )
    print(f"between tokens: p50 {p50:.0f}, p90 {p90:.0f}, p99 {p99:.0f}, longest {gaps_ms.max():.0f} ms of {len(gaps_ms)}")


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a config.json")
    parser.add_argument("--itl-target", default="150ms", help="such as 150ms; none: no target")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=8_000, help="tokens")
    parser.add_argument("--quantize", default="none")
    parser.add_argument("--kv-memory", default="2GiB")
    options = parser.parse_args()
    options.itl_target = None if options.itl_target == "none" else options.itl_target
    stage = Stage(random_checkpoint(options.config), options)
    try:
        asyncio.run(measure(stage, options))
    finally:
        stage.thread.stop()


if __name__ == "__main__":
    main()
