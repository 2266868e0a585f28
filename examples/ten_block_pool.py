"""The KV cache in time steps: ten blocks of four tokens, real classes, no model. `docs/kv-cache.md` explains the output."""

from quire.config import SchedulerConfig
from quire.kv.block import Block
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.request import Request, SamplingParams
from quire.sched.scheduler import Scheduler

manager = KVCacheManager(BlockPool(10, 4), fingerprint=b"a model")
scheduler = Scheduler(SchedulerConfig(max_num_batched_tokens=8), manager, max_context=40)
names = {}  # block id -> the letter of the request that wrote it and the block's number


def step() -> None:
    plan = scheduler.plan_step()
    for copy in plan.copies:
        print(f"step {plan.step:2} {copy.request_id} copies block {copy.source} to block {copy.target}")
    for chunk in plan.scheduled:
        names.update({block: f"{chunk.request_id}{i}" for i, block in enumerate(chunk.block_ids) if i * 4 + 4 > chunk.start})
        slots = [chunk.block_ids[p // 4] * 4 + p % 4 for p in range(chunk.start, chunk.stop)]
        print(f"step {plan.step:2} {chunk.request_id} [{chunk.start}, {chunk.stop}) table {chunk.block_ids} slots {slots}")
    for name in plan.preempted:
        print(f"step {plan.step:2} {name} is preempted")
    scheduler.complete_step(plan, {chunk.request_id: [500 + plan.step] for chunk in plan.scheduled})
    print("  pool  " + " ".join(shown(block) for block in manager.pool.blocks))


def shown(block: Block) -> str:
    name = names[block.id] if block.ref_count or block.is_findable else "--"
    return f"{name}{'#' if block.hash else '~' if block.is_findable else '.'}{block.ref_count}"


for name, tokens, max_tokens, num_steps in (("A", range(14), 14, 5), ("B", range(18), 12, 11), ("C", range(60, 76), 4, 12)):
    scheduler.submit(Request(request_id=name, prompt_token_ids=(*tokens,), sampling=SamplingParams(max_tokens=max_tokens)))
    for _ in range(num_steps):
        if scheduler.has_work:
            step()
    print(manager.explain(name))
