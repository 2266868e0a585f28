"""Work that would hold up the event loop: large JSON bodies, templates, tokenizing, long answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from quire.server.errors import ApiError, Refusal
from quire.server.limits import Limits

_NUM_THREADS = 2
_INLINE_BYTES = 4096
"""A body up to this size is read, rendered and tokenized in less than a millisecond, half of which a thread switch takes."""

_Result = TypeVar("_Result")


class Workers:
    """A few threads with a bounded queue and a deadline. A job that missed its deadline keeps its thread until it ends."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="quire-worker")
        self._num_jobs = 0

    async def run(self, num_bytes: int, job: Callable[[], _Result]) -> _Result:
        """Returns what a job on so many bytes returns, done here if they are few; raises ApiError (429, 504)."""
        if num_bytes <= _INLINE_BYTES:
            return job()
        if self._num_jobs >= self._limits.worker_jobs:
            raise ApiError(
                "too many large requests are being read",
                limit=self._limits.worker_jobs,
                next_step="Try again later.",
                refusal=Refusal(status=429, code="overloaded", headers={"retry-after": "1", "retry-after-ms": "1000"}),
            )
        try:
            return await asyncio.wait_for(self._submitted(job), self._limits.worker_s)
        except TimeoutError as error:
            raise ApiError(
                "reading the request took too long",
                limit=f"{self._limits.worker_s:g} s",
                next_step="Send a shorter request.",
                refusal=Refusal(status=504, code="request_timeout"),
            ) from error

    async def finish(self, num_bytes: int, job: Callable[[], _Result]) -> _Result:
        """Returns what the last job of a request returns, which has been accepted: no limit applies to it any more."""
        return job() if num_bytes <= _INLINE_BYTES else await self._submitted(job)

    def close(self) -> None:
        """Ends the threads after the jobs that run."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submitted(self, job: Callable[[], _Result]) -> asyncio.Future[_Result]:
        loop = asyncio.get_running_loop()
        self._num_jobs += 1
        future = self._pool.submit(job)
        future.add_done_callback(lambda _: self._note_end(loop))
        return asyncio.wrap_future(future)

    def _note_end(self, loop: asyncio.AbstractEventLoop) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._forget_job)

    def _forget_job(self) -> None:
        self._num_jobs -= 1
