"""Calls of an `AsyncEngine` over the bundled model: run one to its end, read a whole stream, compare what came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

from quire import AsyncEngine, SamplingParams
from quire.request import RequestOutput

PREFIX = (
    "A beginning that many prompts share, and that is longer than one block of the cache holds, so that it is found again. " * 2
)
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
LONG = SamplingParams(temperature=0, max_tokens=600, ignore_eos=True)
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
OPTIONS: dict[str, Any] = {"executor": "native", "threads": 1, "kv_memory": "16MiB", "max_num_seqs": 6}
WAIT_S = 60.0
"""Longer than anything here takes: a test that would hang fails instead."""


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, WAIT_S))


async def settled(engine: AsyncEngine) -> None:
    while engine.core.has_work:
        await asyncio.sleep(0.001)


async def all_of(stream: AsyncIterator[RequestOutput]) -> list[RequestOutput]:
    return [output async for output in stream]


def parts(outputs: Sequence[RequestOutput]) -> list[object]:
    return [
        (output.finished, [(each.index, each.text, each.token_ids, each.logprobs, each.finish_reason) for each in output.outputs])
        for output in outputs
    ]
