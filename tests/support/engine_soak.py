"""An engine whose model computes nothing, under requests that share prefixes, are aborted, and fail: its books and memory."""

from __future__ import annotations

import gc
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from resource import getpagesize

from quire.arrays import Float32Array, Int32Array
from quire.bench.null_executor import NullExecutor
from quire.config import CacheConfig, EngineConfig, KVFormat, SchedulerConfig
from quire.engine.core import EngineCore
from quire.engine.loading import Origin, build_core
from quire.errors import ExecutorError
from quire.executors.protocol import ArgmaxTokens, StepBatch
from quire.request import FinishReason, RequestOutput, SamplingParams
from quire.units import MIB
from support.configs import spec_of
from support.faults import Faults
from support.fuzz_requests import Requests

BLOCK_SIZE, NUM_BLOCKS, MAX_TOKENS = 32, 24, 300
_IN_PROGRESS = 24
_STATUS = Path("/proc/self/statm")


class FaultyNullExecutor(NullExecutor):
    """Computes nothing, and fails as `faults` say."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(spec_of("llama"), BLOCK_SIZE, NUM_BLOCKS)
        self.faults = faults

    def run(self, batch: StepBatch) -> Float32Array:
        self._strike()
        return super().run(batch)

    def argmax(self, rows: Int32Array) -> ArgmaxTokens:
        self._strike()
        return super().argmax(rows)

    def copy_block(self, source: int, target: int) -> None:
        self._strike()
        super().copy_block(source, target)

    def _strike(self) -> None:
        if self.faults.strikes():
            raise ExecutorError("an injected fault", next_step="Nothing is wrong.")


@dataclass(slots=True)
class Soak:
    """`run` serves requests; `resident` has the bytes of the process after each tenth, and after the core was closed."""

    seed: int
    reasons: dict[FinishReason, int] = field(default_factory=dict)
    resident: list[int] = field(default_factory=list)
    core: EngineCore = field(init=False)
    faults: Faults = field(init=False)
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.faults = Faults(random.Random(f"faults {self.seed}"), chance=0.01)
        config = EngineConfig(
            cache=CacheConfig(block_size=BLOCK_SIZE, memory_bytes=MIB, format=KVFormat.BFLOAT16),
            scheduler=SchedulerConfig(max_num_batched_tokens=256, max_num_seqs=16),
            max_context=MAX_TOKENS,
        )
        origin = Origin(weights_fingerprint=b"soak", model_context=MAX_TOKENS)
        self.core = build_core(FaultyNullExecutor(self.faults), None, config, origin)

    def run(self, num_requests: int) -> None:
        """Serves so many requests in ten tenths, checks the books after each, and that every request ended once."""
        dice = random.Random(self.seed)
        requests = Requests(dice, self.core.executor.spec.vocab_size, MAX_TOKENS, lengths=(1, 2, 5, 20, 60))
        for tenth in range(1, 11):
            while requests.num_drawn < num_requests * tenth // 10:
                self._submit(requests)
                if dice.random() < 0.05:
                    self._end(self.core.abort(dice.choice(self._open)), requests)
                self._step(requests, _IN_PROGRESS)
            self._step(requests, 1)
            self._check()
        self.core.close()
        self._check()

    def _submit(self, requests: Requests) -> None:
        drawn = requests.draw()
        sampling = SamplingParams(temperature=0, max_tokens=drawn.sampling.max_tokens)  # there are no logits
        submission = replace(drawn, sampling=sampling, prompt=replace(drawn.prompt, num_context_tokens=0))
        self.core.submit(submission)
        self._open.append(submission.request_id)

    def _step(self, requests: Requests, limit: int) -> None:
        """Computes steps until fewer than `limit` requests are open."""
        while len(self._open) >= limit:
            for event in self.core.step():
                if isinstance(event, RequestOutput):
                    self._end(event, requests)

    def _end(self, output: RequestOutput | None, requests: Requests) -> None:
        assert output is not None
        self._open.remove(output.request_id)
        requests.note(output)
        reason = output.outputs[0].finish_reason
        assert reason is not None
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def _check(self) -> None:
        manager = self.core.scheduler.manager
        manager.check()
        manager.check_idle(range(NUM_BLOCKS))
        if self.core.integrity_errors or manager.pool.num_free != NUM_BLOCKS or self.core.has_work:
            raise AssertionError(
                f"the books are not clean: {self.core.integrity_errors}, {manager.pool.num_free} blocks are free"
            )
        gc.collect()
        self.resident.append(int(_STATUS.read_text().split()[1]) * getpagesize())
