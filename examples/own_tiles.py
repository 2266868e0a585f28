"""Own tiles in time steps: six blocks of 32 tokens in 4 bits, two own tiles, real classes, no model. See docs/kv-cache.md."""

from quire.config import SchedulerConfig
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.request import Request, SamplingParams
from quire.sched.scheduler import Scheduler

manager = KVCacheManager(BlockPool(6, 32), fingerprint=b"a model in int4", num_own_tiles=2)
scheduler = Scheduler(SchedulerConfig(max_num_batched_tokens=50), manager, max_context=160)


def step() -> None:
    plan = scheduler.plan_step()
    for copy in plan.copies:
        what = "own tile" if copy.is_own_tile else "block"
        print(f"step {plan.step:2} {copy.request_id} copies {what} {copy.source} to {copy.target}")
    for chunk in plan.scheduled:
        tiles = f"own tile {chunk.own_tile} holds {chunk.stop % 32}"
        tiles += "".join(f", block {block} is packed" for block in chunk.block_ids[chunk.start // 32 : chunk.stop // 32])
        print(f"step {plan.step:2} {chunk.request_id} [{chunk.start}, {chunk.stop}) {tiles}")
    scheduler.complete_step(plan, {chunk.request_id: [500 + plan.step] for chunk in plan.scheduled})


for name, tokens in (("A", range(72)), ("B", range(75)), ("C", range(90, 98)), ("D", range(80, 88)), ("E", range(75))):
    scheduler.submit(Request(request_id=name, prompt_token_ids=(*tokens,), sampling=SamplingParams(max_tokens=2)))
    while scheduler.has_work:
        step()
    print(manager.explain(name))
