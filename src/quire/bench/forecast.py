"""How much a planned model computes, and how fast this machine could be at it: rooflines of the bandwidth and FLOP/s of now.

A roofline is a limit, not a promise: `quire bench decode` and `prefill` say how near to it a machine comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quire.bench.cost import Cost, chunk_work, context_bytes, prefill_cost, weight_bytes
from quire.bench.machine_peak import MachinePeak, measure_peak
from quire.config import KVFormat
from quire.engine.plan import MemoryPlan
from quire.engine.resolve import settled
from quire.executors.native import available_isas, isa_in_use
from quire.executors.packing import weights_by_format
from quire.kv.layout import KVLayout
from quire.units import cdiv


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Floating-point operations (multiplications and additions) of one request of the planned context.

    `prompt_token` is the mean over the prompt, `generated_token` that of a token that sees the whole context.
    """

    prompt: int
    prompt_token: float
    generated_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds at least on this machine: one prompt of the planned context, and by KV format a token of all requests at once."""

    peak: MachinePeak
    prompt: float
    generated_token: Mapping[KVFormat, float]


def work_of(plan: MemoryPlan) -> Work:
    """Returns the operations that the plan's context takes, windows counted."""
    spec, context = plan.capacity.spec, plan.context
    prompt = prefill_cost(spec, 1, 0, context).flops
    token = 2 * chunk_work(spec, context - 1, context, 1).total
    return Work(prompt=prompt, prompt_token=prompt / context, generated_token=token)


def measure_times(plan: MemoryPlan) -> Times | None:
    """Measures the machine, which takes a second or two, and returns the rooflines; None where no core was compiled."""
    if not available_isas():
        return None
    threads = settled(plan.config.threads, "threads")
    main_format = next(iter(weights_by_format(plan.capacity.spec, plan.capacity.formats)))
    return times_of(plan, measure_peak(isa_in_use(), threads, main_format))


def times_of(plan: MemoryPlan, peak: MachinePeak) -> Times:
    """Returns the rooflines on a machine with this peak.

    Every step of a prompt reads the weights once; a token reads them once for all requests, and of each the K/V that it sees.
    """
    spec = plan.capacity.spec
    weights = weight_bytes(spec, plan.capacity.formats)
    num_steps = cdiv(plan.context, plan.config.scheduler.max_num_batched_tokens)
    prompt = prefill_cost(spec, 1, 0, plan.context).roofline_s(peak)
    flops = plan.concurrency * work_of(plan).generated_token

    def step_s(layout: KVLayout) -> float:
        num_bytes = weights.total + plan.concurrency * context_bytes(spec, layout, plan.context)
        return Cost(flops=flops, num_bytes=num_bytes).roofline_s(peak)

    return Times(
        peak=peak,
        prompt=max(prompt, num_steps * weights.total / peak.bandwidth),
        generated_token={kind: step_s(layout) for kind, layout in plan.layouts.items()},
    )
