"""The engine around the scheduler, reduced to a model that remembers what was written into every slot.

The fake executor's K/V of a token is a hash of *all* tokens up to it, as in a real model. Before anything is written it reads
every past slot of every scheduled request through its block table: a wrong share, a block offered before it was written, a
table that lost a block or content that was overwritten all show up as K/V of somebody else's tokens.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from quire.config import KVCacheMode, PrefixCache, SchedulerConfig
from quire.errors import IntegrityError, RequestError
from quire.kv.block import Block
from quire.kv.events import KVEvent, KVEventKind
from quire.kv.hashing import CacheDomain
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.request import FinishReason, Request, RequestStatus, SamplingParams
from quire.sched.plan import ScheduledChunk, StepPlan
from quire.sched.scheduler import Scheduler

MAX_CONTEXT = 26
VOCABULARY = 3
CHECK_EVERY = 4
"""Operations between two checks of the books by themselves, which take longer than all others together."""

TENANTS = ("", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A small engine."""

    block_size: int
    num_blocks: int
    budget: int
    max_num_seqs: int
    mode: KVCacheMode
    prefix_cache: PrefixCache
    tile: int = 0  # tokens of an own tile; 0 in formats without
    num_own_tiles: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one request asks for besides its prompt."""

    max_tokens: int | None
    priority: int
    tenant: str
    prompt_logprobs: int | None
    num_context_tokens: int


def require(fact: bool, message: str) -> None:
    if not fact:
        raise AssertionError(message)


def wanted_rows(chunk: ScheduledChunk) -> list[int]:
    """Returns the positions whose logits a chunk asks for."""
    return list(range(chunk.stop - chunk.num_logit_rows, chunk.stop))


def rows_to_want(request: Request, chunk: ScheduledChunk) -> list[int]:
    """Returns the positions that predict a token somebody waits for: one to be drawn, or one to be scored."""
    is_scored = request.needs_prompt_logits and not request.output_token_ids
    return [
        position
        for position in range(chunk.start, chunk.stop)
        if position + 1 == request.num_tokens or (is_scored and position + 1 >= request.num_context_tokens)
    ]


class World:
    """The engine around the scheduler, reduced to what can be checked. Every public verb is one counted operation."""

    def __init__(self, shape: Shape, tally: Counter[str]) -> None:
        self.tally = tally
        self.mode: KVCacheMode = shape.mode
        self.block_size: int = shape.block_size
        self.config = SchedulerConfig(
            max_num_batched_tokens=shape.budget, max_num_seqs=shape.max_num_seqs, max_queued_requests=20
        )
        self.pool = BlockPool(shape.num_blocks, self.block_size)
        prefix_cache = PrefixCache.OFF if self.mode is KVCacheMode.OFF else shape.prefix_cache
        self.tile, num_own_tiles = shape.tile, shape.num_own_tiles if shape.tile else 0
        self.manager = KVCacheManager(self.pool, fingerprint=b"model", prefix_cache=prefix_cache, num_own_tiles=num_own_tiles)
        self.manager.own_tiles.size = self.tile or self.manager.own_tiles.size
        self.own: list[list[int | None]] = [[None] * self.tile for _ in range(num_own_tiles)]
        self.scheduler = Scheduler(self.config, self.manager, max_context=MAX_CONTEXT, mode=self.mode)
        self.touched: set[int] = set()  # blocks that were written, or told of in an event, since they were last looked at
        self.roots: dict[bytes, int] = {}  # the root of each tenant, and what its first token is hashed with
        for tenant in TENANTS:
            self.roots[CacheDomain(fingerprint=b"model", tenant=tenant).root()] = len(tenant)
        self.kv: list[int | None] = [None] * (shape.num_blocks * self.block_size)
        self.live: dict[str, Request] = {}
        self.computed: dict[str, int] = {}  # the model's own count of tokens that were written for a request
        self.tables: dict[str, tuple[int, ...]] = {}
        self.tables_at_plan: dict[str, tuple[int, ...]] = {}
        self.holders = [0] * shape.num_blocks  # of each block, replayed from events
        self.cached: dict[int, None] = {}  # free blocks with content, least recently released first, replayed from events
        self.partial: dict[int, None] = {}  # the same of blocks that are not full
        self.sections: dict[int, dict[int, None]] = {}  # where a block will be when it is released
        self.num_submitted = self.num_ended = self.num_ended_at_plan = self.num_evicted_at_plan = self.dice = 0
        self.is_mid_verb = False  # stays true when a verb fails, so that the failure is not hidden by another one

    # -- verbs ---------------------------------------------------------------------

    def new_request(self, prompt: tuple[int, ...], options: Options) -> Request:
        sampling = SamplingParams(max_tokens=options.max_tokens, prompt_logprobs=options.prompt_logprobs)
        name = f"r{self.num_submitted}"
        return Request(
            request_id=name,
            prompt_token_ids=prompt,
            sampling=sampling,
            priority=options.priority,
            tenant=options.tenant,
            num_context_tokens=min(options.num_context_tokens, len(prompt)),
        )

    def submit(self, request: Request) -> None:
        is_known = request.request_id in self.live
        try:
            self.scheduler.submit(request)
        except (RequestError, IntegrityError) as error:
            require(isinstance(error, IntegrityError) == is_known, "an id in progress is a defect of the caller, nothing else is")
            require(request.request_id not in self.live or self.live[request.request_id] is not request, "refused but known")
            self.done("refused")
            return
        self.num_submitted += 1
        self.live[request.request_id] = request
        self.computed[request.request_id] = 0
        self.done("submit")

    def end(self, request: Request, verb: str) -> None:
        ended = self.scheduler.abort(request.request_id) if verb == "abort" else self.scheduler.fail(request.request_id)
        require(ended is request, "the wrong request ended")
        self.note_end(request)
        self.done(verb)

    def plan(self) -> StepPlan | None:
        self.is_mid_verb = True
        self.num_ended_at_plan, self.num_evicted_at_plan = self.num_ended, self.tally["evicted"]
        self.tables_at_plan = dict(self.tables)
        states = {name: request.status for name, request in self.live.items()}
        plan = self.scheduler.plan_step()
        require((plan is None) == (not self.live), "a plan is missing or out of nowhere")
        if plan is not None:
            self.check_plan(plan, states)
        self.done("plan")
        return plan

    def run(self, plan: StepPlan) -> None:
        self.copy(plan)
        chunks = [chunk for chunk in plan.scheduled if chunk.request_id in self.live]
        for chunk in chunks:
            chain = self.chain(chunk)
            past = [self.read(chunk, position) for position in range(chunk.start)]
            require(past == chain[: chunk.start], f"{chunk} reads K/V of other tokens than its own")
        for chunk in chunks:
            self.write_chunk(chunk, list(self.chain(chunk)))

    def complete(self, plan: StepPlan) -> None:
        sampled, ended = self.sample(plan)
        running = {chunk.request_id: chunk for chunk in plan.scheduled if chunk.request_id in self.live}
        before = {name: len(self.live[name].output_token_ids) for name in running}
        finished = self.scheduler.complete_step(plan, sampled, ended)
        for name, chunk in running.items():
            grown = len(self.live[name].output_token_ids) - before[name]
            require(grown == chunk.num_sample_rows, "a chunk that samples adds one token, any other none")
            self.computed[name] = 0 if self.mode is KVCacheMode.OFF else chunk.stop
            is_kept = self.mode is KVCacheMode.PAGED or self.live[name].status is RequestStatus.FINISHED
            require(is_kept or not self.manager.block_ids(name), "K/V outlives its step although the cache is off")
        for joint in plan.joint_draws:
            for name in joint.others:
                if name in self.live:
                    require(self.live[name].output_token_ids == sampled[name], "a joint draw adds the first token")
        for request in finished:
            require(request.finish_reason in (FinishReason.STOP, FinishReason.LENGTH), "finished without a reason")
            self.note_end(request)
        self.done("complete")

    def copy(self, plan: StepPlan) -> None:
        for copy in plan.copies:
            if copy.is_own_tile:
                self.own[copy.target] = list(self.own[copy.source])
                self.tally["copied own tile"] += 1
                continue
            source, target = copy.source * self.block_size, copy.target * self.block_size
            self.kv[target : target + self.block_size] = self.kv[source : source + self.block_size]
            self.touched.add(copy.target)
            self.tally["copied block"] += 1

    def abandon(self, plan: StepPlan) -> None:
        """The run fails after it has spoilt the slots it was to write; the next plan must be the same."""
        self.copy(plan)
        for chunk in plan.scheduled:
            if chunk.request_id in self.live:
                self.write_chunk(chunk, [None] * chunk.stop)
        self.scheduler.abandon(plan)
        for chunk in plan.scheduled:
            request = self.live.get(chunk.request_id)
            if request is None:
                continue
            if request.status is RequestStatus.WAITING:
                self.computed[chunk.request_id] = 0
            table = self.manager.block_ids(chunk.request_id)
            require(table == self.tables_at_plan.get(chunk.request_id, ()), "an abandoned plan keeps blocks")
        self.done("abandon")
        is_undisturbed = not plan.preempted and self.num_ended == self.num_ended_at_plan
        num_evicted = self.tally["evicted"] - self.num_evicted_at_plan
        let_in = [chunk for chunk in plan.scheduled if chunk.request_id not in self.tables_at_plan]
        is_tile_reused = self.tile and any(chunk.start % self.tile for chunk in let_in)  # copied, or taken as the last one left
        again = self.plan()
        if (
            (num_evicted or is_tile_reused)
            and again is not None
            and [chunk.start for chunk in again.scheduled] != [chunk.start for chunk in plan.scheduled]
        ):  # what might have been copied from was evicted by the plan, or its own tile handed out
            self.tally["another copy after abandoning" if num_evicted else "another own tile after abandoning"] += 1
        elif is_undisturbed:
            require(again == plan, f"after abandoning, another plan was made: {plan} {again}")
        if again is not None:
            self.run(again)
            self.complete(again)

    def step(self) -> StepPlan | None:
        plan = self.plan()
        if plan is not None:
            self.run(plan)
            self.complete(plan)
        return plan

    # -- the model -----------------------------------------------------------------

    def sample(self, plan: StepPlan) -> tuple[dict[str, list[int]], dict[str, FinishReason]]:
        """Returns a token for each chunk that samples, and which of them end their request."""
        sampled: dict[str, list[int]] = {}
        ended: dict[str, FinishReason] = {}
        for chunk in plan.scheduled:
            if chunk.num_sample_rows:
                self.dice = (self.dice * 1103515245 + 12345) % 2**31
                sampled[chunk.request_id] = [(self.dice >> 16) % VOCABULARY]
                if (self.dice >> 9) % 11 == 0:
                    ended[chunk.request_id] = FinishReason.STOP
        for joint in plan.joint_draws:
            for name in joint.others:
                if name in self.live:
                    sampled[name] = [self.num_submitted % VOCABULARY]
                    self.tally["joint draw"] += 1
        return sampled, ended

    def chain(self, chunk: ScheduledChunk) -> list[int]:
        request = self.live[chunk.request_id]
        value, chain = len(request.tenant), []
        for token_id in request.token_ids(0, chunk.stop):
            value = hash((value, token_id))
            chain.append(value)
        return chain

    def slot(self, chunk: ScheduledChunk, position: int) -> int:
        return chunk.block_ids[position // self.block_size] * self.block_size + position % self.block_size

    def read(self, chunk: ScheduledChunk, position: int) -> int | None:
        is_own = self.tile and chunk.start % self.tile and position // self.tile == chunk.start // self.tile
        return self.own[chunk.own_tile][position % self.tile] if is_own else self.kv[self.slot(chunk, position)]

    def write_chunk(self, chunk: ScheduledChunk, values: list[int | None]) -> None:
        """Writes K/V of all of a chunk's tokens: where there are own tiles, pages get whole tiles, and the own one the last."""
        if not self.tile:
            for position in range(chunk.start, chunk.stop):
                self.write(chunk, position, values[position])
            return
        first, last = chunk.start // self.tile, (chunk.stop - 1) // self.tile
        require(chunk.start % self.tile == 0 or first == last, "a chunk that begins inside a tile goes beyond it")
        for position in range(max(chunk.start, last * self.tile), chunk.stop):
            self.own[chunk.own_tile][position % self.tile] = values[position]
        whole = range(first * self.tile, chunk.stop // self.tile * self.tile)
        for position in whole:
            is_last = position // self.tile == last
            self.write(chunk, position, self.own[chunk.own_tile][position % self.tile] if is_last else values[position])

    def write(self, chunk: ScheduledChunk, position: int, value: int | None) -> None:
        slot = self.slot(chunk, position)
        block = self.pool.blocks[slot // self.block_size]
        is_offered = block.is_findable and slot % self.block_size < self.num_in_page(block)
        num_pins = self.manager.copies.pinned_block_ids.count(block.id)
        require(block.ref_count == 1 + num_pins and block.hash is None, "a chunk writes to a shared or committed block")
        require(not is_offered and block.copy_of is None, "a chunk writes over tokens that can be found")
        self.touched.add(block.id)
        self.kv[slot] = value

    def note_end(self, request: Request) -> None:
        require(request.status is RequestStatus.FINISHED, "ended but not finished")
        del self.live[request.request_id], self.computed[request.request_id]
        self.tables.pop(request.request_id, None)
        self.num_ended += 1

    def done(self, verb: str) -> None:
        """Checks every invariant and counts the operation."""
        self.is_mid_verb = True
        self.replay_events()
        self.check()
        self.is_mid_verb = verb == "plan" and self.scheduler.has_work
        self.tally[verb] += 1
        self.tally["operations"] += 1

    def replay_events(self) -> None:
        last_released: tuple[str, int] | None = None
        for event in self.pool.events.take():
            if not isinstance(event, KVEvent):
                continue
            block_id = event.block_id
            self.touched.add(block_id)
            self.tally[event.kind.value] += 1
            if event.kind is KVEventKind.EVICTED:
                first = next(iter([*self.partial, *self.cached]))
                require(first == block_id, "evicted before something partly filled, or released earlier")
                self.forget(block_id)
                is_orphaned = event.hash is not None and self.pool.most_similar(event.hash, ()) is not None
                require(not is_orphaned or event.hash in self.pool.by_key, "a block was evicted before one that follows it")
            elif event.kind is KVEventKind.SUPERSEDED:
                require(not self.holders[block_id], "a held block lost its content")
                self.forget(block_id)
            elif event.kind is KVEventKind.RELEASED:
                self.holders[block_id] -= 1
                if not self.holders[block_id] and block_id in self.sections:
                    self.sections[block_id][block_id] = None
                table = self.tables.get(event.request_id, ())
                if block_id in table:
                    place = (event.request_id, table.index(block_id))
                    is_in_order = last_released is None or last_released[0] != place[0] or last_released[1] > place[1]
                    require(is_in_order, "a head was released before its tail")
                    last_released = place
            elif event.kind in (KVEventKind.ALLOCATED, KVEventKind.SHARED):
                self.holders[block_id] += 1
                self.cached.pop(block_id, None)
                self.partial.pop(block_id, None)
            elif event.kind is KVEventKind.OFFERED:
                self.sections[block_id] = self.partial
            elif event.kind is KVEventKind.COMMITTED:
                self.sections[block_id] = self.cached
            elif event.kind is KVEventKind.DUPLICATE:
                self.sections.pop(block_id, None)

    def forget(self, block_id: int) -> None:
        """A free block lost its content."""
        del self.sections.pop(block_id)[block_id]

    def check_plan(self, plan: StepPlan, states: dict[str, RequestStatus]) -> None:
        for name in plan.preempted:
            self.tally["preempted"] += 1
            self.computed[name] = 0
            self.tables.pop(name, None)
        total = sum(chunk.num_tokens for chunk in plan.scheduled)
        is_lone = self.mode is KVCacheMode.OFF and len(plan.scheduled) == 1
        require(total <= self.config.max_num_batched_tokens or is_lone, "over the token budget")
        require(len({chunk.request_id for chunk in plan.scheduled}) == len(plan.scheduled), "scheduled twice")
        own_tiles = {chunk.own_tile for chunk in plan.scheduled}
        require(not self.tile or len(own_tiles) == len(plan.scheduled), "two requests write into one own tile")
        for chunk in plan.scheduled:
            request = self.live[chunk.request_id]
            if states[chunk.request_id] is RequestStatus.WAITING:
                self.tally["hit inside a block"] += chunk.start % self.block_size > 0
                is_scored = request.needs_prompt_logits and not request.output_token_ids
                require(not is_scored or chunk.start < max(1, request.num_context_tokens), "a match hides prompt logits")
                self.tally["scored after a hit"] += is_scored and chunk.start > 0
                self.tally["hit"] += chunk.start > 0
                self.computed[chunk.request_id] = chunk.start
            require(chunk.start == self.computed[chunk.request_id] == request.num_computed_tokens, "chunks do not tile")
            require(0 < chunk.num_tokens <= request.num_tokens - chunk.start, "a chunk outside the request")
            require(wanted_rows(chunk) == rows_to_want(request, chunk), "logits of the wrong rows are wanted")
            require(chunk.num_sample_rows == (chunk.stop == request.num_tokens), "samples at the wrong place")
            require(len(chunk.block_ids) == -(-chunk.stop // self.block_size), "table and tokens differ in length")
            require(
                self.mode is KVCacheMode.PAGED or (chunk.start == 0 and chunk.num_sample_rows == 1), "a cache although it is off"
            )
        self.check_joint_draws(plan)
        self.check_urgency(plan)

    def check_joint_draws(self, plan: StepPlan) -> None:
        for joint in plan.joint_draws:
            (chunk,) = [chunk for chunk in plan.scheduled if chunk.request_id == joint.request_id]
            leader = self.live[joint.request_id]
            require(chunk.num_sample_rows == 1 and not leader.output_token_ids, "a joint draw is not of first tokens")
            for name in joint.others:
                other = self.live[name]
                require(
                    other.prompt_token_ids == leader.prompt_token_ids and not other.output_token_ids, "drawn of another prompt"
                )
                require(other.status is RequestStatus.WAITING, "a request draws twice")

    def check_urgency(self, plan: StepPlan) -> None:
        order = {name: (request.priority, request.arrival) for name, request in self.live.items()}
        for name in plan.preempted:
            others = [
                chunk.request_id for chunk in plan.scheduled if self.live[chunk.request_id].tenant == self.live[name].tenant
            ]
            require(all(order[other] < order[name] for other in others), "preempted a more urgent request")

    def check(self) -> None:
        if self.tally["operations"] % CHECK_EVERY == 0:
            self.manager.check()
        tables = {name: self.manager.block_ids(name) for name in self.live}
        held, blocks = [0] * len(self.pool.blocks), self.pool.blocks
        for table in (*tables.values(), self.manager.copies.pinned_block_ids):
            for block_id in table:
                held[block_id] += 1
        free = self.pool.free_block_ids()
        require(sorted(free) == [block_id for block_id, count in enumerate(held) if not count], "free + used != total")
        require([block.ref_count for block in blocks] == held == self.holders, "ref_count, tables and events disagree")
        for block_id in self.touched:
            self.check_content(blocks[block_id])
        self.touched.clear()
        require([b for b in free if blocks[b].parent is not None] == [*self.partial, *self.cached], "not in order of release")
        self.check_own_tiles()
        require(self.pool.num_cached == len(self.cached) + len(self.partial), "cached blocks are miscounted")
        running = [name for name, request in self.live.items() if request.status is RequestStatus.RUNNING]
        require(len(running) == self.scheduler.num_running <= self.config.max_num_seqs, "too many running")
        require(len(self.live) - len(running) == self.scheduler.num_waiting, "waiting requests are miscounted")
        for name, request in self.live.items():
            require(request.num_computed_tokens == self.computed[name], f"{name} miscounts its computed tokens")
            require(request.status is RequestStatus.RUNNING or not tables[name], f"{name} waits and holds blocks")
        for name in running:
            known = self.tables.get(name, ())[: self.computed[name] // self.block_size]
            require(tables[name][: len(known)] == known, "a running table changed below what was computed")
        self.tables = {name: tables[name] for name in running}

    def check_content(self, block: Block) -> None:
        """What can be found in a block was written there, after what it is said to follow."""
        if block.parent is None:
            return
        content = self.kv[block.id * self.block_size :][: self.num_in_page(block)]
        before = self.roots.get(block.parent)
        if before is None:
            require(block.parent in self.pool.by_key, "a block can be found but not the one before it")
            before = self.kv[(self.pool.by_key[block.parent].id + 1) * self.block_size - 1]
        for value, token_id in zip(content, block.token_ids, strict=False):
            require(value is not None and value == hash((before, token_id)), "a block can be found but was not written so")
            before = value

    def num_in_page(self, block: Block) -> int:
        """How many of the tokens that can be found in a block are in its page: whole tiles."""
        num_tokens = len(block.token_ids)
        return num_tokens // self.tile * self.tile if self.tile else num_tokens

    def check_own_tiles(self) -> None:
        """An own tile that was given back holds the tokens by which it is found."""
        for (parent, token_ids), own_tile in self.manager.own_tiles.kept.items():
            before = self.roots.get(parent)
            if before is None and parent in self.pool.by_key:
                before = self.kv[(self.pool.by_key[parent].id + 1) * self.block_size - 1]
            if before is not None:
                for place, token_id in enumerate(token_ids):
                    before = hash((before, token_id))
                    is_inside = place // self.tile == len(token_ids) // self.tile
                    require(not is_inside or self.own[own_tile][place % self.tile] == before, "an own tile was written over")

    def drain(self) -> None:
        """Everything that was accepted ends, once, and leaves nothing behind."""
        for _ in range(40 * MAX_CONTEXT):
            if not self.scheduler.has_work:
                break
            self.step()
        require(not self.live and self.num_ended == self.num_submitted, "a request never ended")
        require(len(self.pool.free_block_ids()) == len(self.pool.blocks), "blocks leaked")
        self.manager.check()
        self.manager.check_idle(range(self.pool.num_blocks))
