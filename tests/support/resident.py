"""Loads a random model, fills its whole KV cache through the engine, and says what that took: run in a process of its own.

    python -m support.resident CONFIG OPTIONS        prints {"planned": bytes, "resident": bytes}

`planned` is what `quire plan` says of the same config and options; `resident` is by how much the process grew.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

from quire.bench.harness import chunk_step
from quire.bench.random_model import random_checkpoint
from quire.engine import driving
from quire.engine.batch import rows_per_slice
from quire.engine.core import EngineCore
from quire.engine.loading import Origin, build_core, build_executor, load_executor
from quire.engine.options import engine_config
from quire.engine.plan import AskedLoad, plan_memory
from quire.models.described import describe


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)[1])  # type: ignore[index]


def main(config_file: str, options: str) -> None:
    """Loads, fills, and prints; everything but the engine is in memory before the first reading."""
    plan = plan_memory(engine_config(json.loads(options)), describe(Path(config_file)).checkpoint, AskedLoad())
    checkpoint = random_checkpoint(Path(config_file))
    for tensor in checkpoint.weights.values():
        tensor.bits.sum()
    _warm_up()
    before = resident_bytes()
    executor = build_executor(checkpoint, plan.config)
    origin = Origin(weights_fingerprint=b"resident", model_context=checkpoint.model_context)
    core = build_core(executor, None, plan.config, origin)  # type: ignore[arg-type]  # what computes tokens alone needs no text
    _fill(core, plan.context)
    num_rows = min(plan.config.scheduler.max_num_batched_tokens, plan.context)
    step = chunk_step([1] * num_rows, 0, executor.layout)
    step.own_tiles = np.zeros(1, np.int32) if executor.layout.has_own_tiles else None
    executor.run(step)
    logits = executor.head(np.arange(min(num_rows, rows_per_slice(executor.spec.vocab_size)), dtype=np.int32))
    grown = resident_bytes() - before
    sys.stdout.write(json.dumps({"planned": plan.needs.total, "resident": grown, "logits": logits.shape}) + "\n")


def _warm_up() -> None:
    """Brings in what any engine takes: modules, the core's code, threads."""
    _, executor, _ = load_executor(None, engine_config({"kv_memory": "1MiB", "threads": 2}))
    executor.run(chunk_step([1] * 64, 0, executor.layout))
    executor.head(np.arange(64, dtype=np.int32))


def _fill(core: EngineCore, context: int) -> None:
    """Computes requests with different prompts until every block holds something."""
    size = core.executor.layout.block_size
    per_request = context - 2
    vocab_size = core.executor.spec.vocab_size
    for index in range(2 + core.executor.num_blocks * size // per_request):
        prompt = [(31 * index + 17 * position + 5) % vocab_size for position in range(per_request)]
        core.submit(driving.greedy(f"fill-{index}", prompt, 1))
    driving.run(core)


if __name__ == "__main__":
    main(*sys.argv[1:])
