"""What the engine's steps tell the metrics: the watcher that the engine thread calls after each of them.

A token costs it a fraction of a microsecond: requests that got their last token in the same step are counted together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quire.engine.core import EngineCore
from quire.engine.watch import StepRecord
from quire.kv.events import KVEvent, KVEventKind, LogEvent, PoolReplaced
from quire.server.metrics_values import FAST_S, LONG_S, POWERS_OF_TWO, Spread, counter, gauge


class EngineMetrics:
    """Counts what steps do. Written by the engine thread, read by any."""

    def __init__(self) -> None:
        self._core: EngineCore | None = None
        self._steps = Spread(FAST_S)
        self._batch_sizes = Spread(POWERS_OF_TWO)
        self._step_tokens = Spread(POWERS_OF_TWO)
        self._gaps = Spread(FAST_S)
        self._num_generated = self._num_preempted = self._num_held_tokens = 0
        self._last_token_s: dict[str, float] = {}
        self._blocks = BlockMetrics()

    def watch(self, core: EngineCore) -> None:
        """Counts the steps of a core from now on, while nothing runs in it."""
        self._core = core
        core.watcher = self.note_step

    def note_step(self, record: StepRecord) -> None:
        """Counts one step. Only for the thread that steps."""
        plan, drawn, events, ended, began_s, ended_s = record
        if not drawn.failures:
            self._steps.add(ended_s - began_s)
            self._batch_sizes.add(len(plan.scheduled))
            self._step_tokens.add(plan.num_tokens)
            self._note_tokens(drawn.token_ids, ended_s)
        self._num_preempted += len(plan.preempted)
        for event in events:
            self._blocks.note(event, ended_s)
        for request_id in ended:
            self._last_token_s.pop(request_id, None)
        if self._core is not None:
            self._num_held_tokens = self._core.scheduler.num_held_tokens

    def families(self) -> Iterator[Any]:
        """Yields what was counted, and where the blocks are now."""
        yield self._steps.family("quire_step_seconds", "Time of one step of the engine, planning and sampling included.")
        yield self._batch_sizes.family("quire_step_requests", "Requests that one step computed together.")
        yield self._step_tokens.family("quire_step_tokens", "Tokens that one step computed, of prompts and of answers.")
        yield self._gaps.family("quire_inter_token_seconds", "Time between two tokens of one choice.")
        yield counter("quire_generated_tokens", "Tokens drawn, those of choices that were cut included.", self._num_generated)
        yield counter("quire_preemptions", "Times that a request gave back its blocks to one more urgent.", self._num_preempted)
        yield from self._blocks.families()
        yield from self._families_of_now()

    def _families_of_now(self) -> Iterator[Any]:
        core = self._core
        if core is None:
            return
        scheduler, num_resets = core.scheduler, len(core.integrity_errors)
        usage, size = scheduler.manager.usage(core.executor.layout), core.executor.layout.block_size
        requests = {"running": scheduler.num_running, "waiting": scheduler.num_waiting}
        blocks = {"used": usage.num_used_blocks, "cached": usage.num_cached_blocks, "empty": usage.num_empty_blocks}
        num_cached_tokens = scheduler.manager.pool.num_cached_tokens
        tokens = {"used": min(self._num_held_tokens, usage.num_used_blocks * size), "cached": num_cached_tokens}
        yield gauge("quire_requests", "Choices in the engine, by state.", "state", requests)
        yield gauge("quire_kv_blocks", "Blocks of the KV cache, by state.", "state", blocks)
        yield gauge("quire_kv_tokens", "Tokens that blocks hold, by state of the block.", "state", tokens)
        yield counter("quire_kv_resets", "Times that the cache's bookkeeping was wrong and was begun again.", num_resets)

    def _note_tokens(self, token_ids: dict[str, list[int]], now: float) -> None:
        last = self._last_token_s
        same_s, count = None, 0
        for last_s in map(last.get, token_ids):
            if last_s != same_s:
                self._note_gaps(same_s, now, count)
                same_s, count = last_s, 0
            count += 1
        self._note_gaps(same_s, now, count)
        last.update(dict.fromkeys(token_ids, now))
        self._num_generated += sum(map(len, token_ids.values()))

    def _note_gaps(self, last_s: float | None, now: float, count: int) -> None:
        if last_s is not None:
            self._gaps.add(now - last_s, count)


class BlockMetrics:
    """How long content stays in the cache, and after which time it is used again, from the pool's events."""

    def __init__(self) -> None:
        self._residency, self._idle, self._reuse_gaps = Spread(LONG_S), Spread(LONG_S), Spread(LONG_S)
        self._committed_s: dict[int, float] = {}  # by block, of those whose content can be found
        self._used_s: dict[int, float] = {}

    def note(self, event: LogEvent, now: float) -> None:
        """Counts what happened to a block in the step that ended now."""
        if not isinstance(event, KVEvent):
            if isinstance(event, PoolReplaced):
                self._committed_s.clear()
                self._used_s.clear()
            return
        block_id, used_s = event.block_id, self._used_s
        if event.kind in (KVEventKind.COMMITTED, KVEventKind.OFFERED):
            self._committed_s[block_id] = used_s[block_id] = now
        elif event.kind in (KVEventKind.SUPERSEDED, KVEventKind.DUPLICATE):  # its content is found in another block
            self._committed_s.pop(block_id, None)
            used_s.pop(block_id, None)
        elif block_id not in used_s:
            return
        elif event.kind is KVEventKind.SHARED:
            self._reuse_gaps.add(now - used_s[block_id])
            used_s[block_id] = now
        elif event.kind is KVEventKind.RELEASED:
            used_s[block_id] = now
        elif event.kind is KVEventKind.EVICTED:
            self._residency.add(now - self._committed_s.pop(block_id))
            self._idle.add(now - used_s.pop(block_id))

    def families(self) -> Iterator[Any]:
        """Yields what was counted."""
        yield counter("quire_kv_evictions", "Blocks whose content was given up for other content.", self._residency.count)
        yield self._residency.family("quire_kv_residency_seconds", "Time from a block's content to its eviction.")
        yield self._idle.family("quire_kv_idle_seconds", "Time from the last use of a block's content to its eviction.")
        yield self._reuse_gaps.family("quire_kv_reuse_gap_seconds", "Time from one use of a block's content to the next.")
