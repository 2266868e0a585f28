"""Decode and prefill at depth in every KV format, compared with bfloat16: what smaller keys and values save.

    python benchmarks/kv_formats.py benchmarks/configs/qwen3-0.6b.json --depth 4096 --rounds 5
    python benchmarks/kv_formats.py benchmarks/configs/qwen3-0.6b.json --depth 16384 --formats bfloat16 int8 int4

Random weights of the shape, an executor for each format. The context is one computed prompt, its blocks copied until the depth
is reached: every block lies in memory of its own. Formats take turns, round by round. The roofline's gain, from the bytes that a
step reads, is printed first. Close other programs first.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np

from quire.bench.cost import decode_cost
from quire.bench.harness import Harness, Room, chunk_step, prompt_tokens
from quire.bench.random_model import random_checkpoint
from quire.config import KERNEL_TILE_TOKENS, KVFormat
from quire.executors.protocol import StepBatch
from quire.models.checkpoint import Checkpoint

_CHUNK = 512
_DECODE_STEPS = 8


class Contestant:
    """One KV format at a depth: its executor, with the context in memory."""

    def __init__(self, checkpoint: Checkpoint, kv_format: KVFormat, options: argparse.Namespace) -> None:
        self.name = kv_format.value
        room = Room(num_requests=1, num_tokens=options.depth + _CHUNK)
        self.harness = Harness(checkpoint, {"quantize": options.quantize, "kv_format": kv_format.value}, room)
        self._depth = options.depth
        self._tokens = prompt_tokens(checkpoint.spec.vocab_size, 0, _CHUNK)
        executor, size = self.harness.executor, self.harness.layout.block_size
        executor.submit(self._step(self._tokens, 0)).result()
        for block in range(_CHUNK // size, options.depth // size):
            executor.copy_block(block % (_CHUNK // size), block)

    def decode_s(self) -> float:
        """Returns the median seconds of a step that computes one token behind the context."""
        return median(self._seconds(self._step(self._tokens[:1], self._depth + idx)) for idx in range(_DECODE_STEPS))

    def prefill_s(self) -> float:
        """Returns the seconds of a chunk of prompt behind the context."""
        return self._seconds(self._step(self._tokens, self._depth))

    def roofline_s(self) -> float:
        """Returns the seconds that the bytes of a decode step need at this machine's bandwidth."""
        harness = self.harness
        return decode_cost(harness.spec, harness.weights, harness.layout, (self._depth,)).roofline_s(harness.peak())

    def _step(self, token_ids: list[int], start: int) -> StepBatch:
        step = chunk_step(token_ids, start, self.harness.layout)
        step.sample_rows = np.array([len(token_ids) - 1], dtype=np.int32)
        if self.harness.layout.has_own_tiles:
            step.own_tiles = np.zeros(1, dtype=np.int32)
        return step

    def _seconds(self, step: StepBatch) -> float:
        began = time.perf_counter()
        self.harness.executor.submit(step).result()
        return time.perf_counter() - began


def main() -> None:
    """Measures and prints a line for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--depth", type=int, default=4096, help="a multiple of 512")
    parser.add_argument("--quantize", default="int4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", nargs="+", default=[each.value for each in KVFormat if each is not KVFormat.FLOAT32])
    options = parser.parse_args()
    if options.depth < _CHUNK or options.depth % max(_CHUNK, KERNEL_TILE_TOKENS):
        parser.error(f"--depth must be a multiple of {_CHUNK}")
    checkpoint = random_checkpoint(options.config, max_context=options.depth + _CHUNK + KERNEL_TILE_TOKENS)
    contestants = [Contestant(checkpoint, KVFormat(name), options) for name in options.formats]
    rooflines = [each.roofline_s() for each in contestants]
    for each, roofline in zip(contestants, rooflines, strict=True):
        print(f"{each.name:10} predicted decode {roofline * 1e3:6.1f} ms, gain {rooflines[0] / roofline:.2f}x", flush=True)
    times = [_round(contestants, number) for number in range(options.rounds)]
    for what in (0, 1):
        for idx, each in enumerate(contestants):
            _print_line(("decode", "prefill of 512")[what], each.name, times, idx, what)


def _round(contestants: list[Contestant], number: int) -> list[tuple[float, float]]:
    """Returns decode and prefill seconds of every format; every other round goes backwards."""
    order = list(enumerate(contestants))[:: -1 if number % 2 else 1]
    found = {idx: (each.decode_s(), each.prefill_s()) for idx, each in order}
    return [found[idx] for idx in range(len(contestants))]


def _print_line(what: str, name: str, times: list[list[tuple[float, float]]], idx: int, column: int) -> None:
    ratios = [row[0][column] / row[idx][column] for row in times]
    seconds = median(row[idx][column] for row in times)
    print(f"{what} in {name}: {seconds * 1e3:.1f} ms, {median(ratios):.2f}x as fast ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
