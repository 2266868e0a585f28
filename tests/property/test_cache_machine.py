"""Pool, manager and scheduler under random use: any verb, at any time, in a small pool."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import product

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from quire.config import KVCacheMode, PrefixCache
from quire.request import Request
from quire.sched.plan import StepPlan
from support.cache_moves import wander
from support.cache_world import MAX_CONTEXT, VOCABULARY, Options, Shape, World

NUM_OPERATIONS = 200_000
NUM_MOVES = 40
FAMILIES = tuple(tuple((family * k * k + k // 3) % VOCABULARY for k in range(MAX_CONTEXT)) for family in range(3))

SHAPES = st.builds(
    Shape,
    block_size=st.sampled_from([2, 4, 3, 8]),
    num_blocks=st.integers(5, 14),
    budget=st.integers(2, 20),
    max_num_seqs=st.integers(2, 5),
    mode=st.sampled_from([KVCacheMode.PAGED] * 7 + [KVCacheMode.OFF]),
    prefix_cache=st.sampled_from([PrefixCache.ON] * 5 + [PrefixCache.OFF]),
)
# One draw each instead of one per field: Hypothesis takes more time to draw than the engine to run.
OPTIONS = st.sampled_from(
    [
        Options(max_tokens=max_tokens, priority=priority, tenant=tenant, prompt_logprobs=logprobs, num_context_tokens=context)
        for max_tokens, priority, tenant, logprobs, context in product(
            [5, 1, 2, 9, 14, None], [0, 0, 0, 1, -1], ["", "", "", "other"], [None, None, None, None, 1], [0, 0, 3, 5, 9, 14]
        )
    ]
)
TOKEN = st.integers(0, VOCABULARY - 1)
TAILS = [tail for length in range(5) for tail in list(product(range(VOCABULARY), repeat=length)) * VOCABULARY ** (4 - length)]
PROMPTS = st.tuples(
    st.sampled_from([family[:length] for family in FAMILIES for length in range(17)]), st.sampled_from(TAILS)
).map(lambda parts: parts[0] + parts[1])
PICK = st.integers(0, 11)


class CacheMachine(RuleBasedStateMachine):
    """The verbs in any order. `tally` counts over all runs."""

    def __init__(self, tally: Counter[str]) -> None:
        super().__init__()
        self.tally = tally

    @initialize(shape=SHAPES)
    def build(self, shape: Shape) -> None:
        self.world = World(shape, self.tally)

    def pick(self, number: int) -> Request | None:
        live = list(self.world.live.values())
        return live[number % len(live)] if live else None

    @rule(prompts=st.lists(PROMPTS, min_size=1, max_size=4), options=OPTIONS, copies=st.sampled_from([1, 1, 2, 3]))
    def submit(self, prompts: list[tuple[int, ...]], options: Options, copies: int) -> None:
        for prompt in prompts * copies:
            self.world.submit(self.world.new_request(prompt, options))

    @rule(prompt=PROMPTS, options=OPTIONS, number=PICK)
    def submit_and_step(self, prompt: tuple[int, ...], options: Options, number: int) -> None:
        name = f"r{self.world.num_submitted - number}"  # often an id that is in progress, which must be refused
        request = self.world.new_request(prompt, options)
        self.world.submit(dataclasses.replace(request, request_id=name) if name in self.world.live else request)
        self.world.step()

    @rule(
        number=PICK,
        tails=st.lists(st.lists(TOKEN, min_size=1, max_size=3), min_size=1, max_size=3),
        options=OPTIONS,
        changed=st.none() | st.integers(0, 12),
    )
    def branch(self, number: int, tails: list[list[int]], options: Options, changed: int | None) -> None:
        self.world.step()
        parent = self.pick(number)
        if parent is not None:
            options = dataclasses.replace(options, max_tokens=3, tenant=parent.tenant, prompt_logprobs=None)
            for tail in tails:
                prompt = [*parent.token_ids(0, parent.num_tokens), *tail]
                if changed is not None:
                    prompt[changed % len(prompt)] = VOCABULARY  # the branch leaves the tokens of its parent here
                self.world.submit(self.world.new_request(tuple(prompt), options))

    @rule(count=st.integers(1, 20), dice=st.integers(0, 1000))
    def steps(self, count: int, dice: int) -> None:
        self.world.dice ^= dice
        for _ in range(count):
            if self.world.scheduler.has_work:
                self.world.step()

    @rule(number=PICK, verb=st.sampled_from(["abort", "fail"]))
    def end(self, number: int, verb: str) -> None:
        request = self.pick(number)
        if request is not None:
            self.world.end(request, verb)

    @rule(number=PICK, is_failing=st.booleans())
    def end_in_flight(self, number: int, is_failing: bool) -> None:
        plan, request = self.world.plan(), self.pick(number)
        if plan is not None and request is not None:
            self.world.end(request, "abort")
            self.world.run(plan)
            (self.world.abandon if is_failing else self.world.complete)(plan)

    @rule()
    def fail_step(self) -> None:
        plan = self.world.plan()
        if plan is not None:
            self.world.abandon(plan)

    def teardown(self) -> None:
        if hasattr(self, "world") and not self.world.is_mid_verb:
            self.world.drain()


def test_every_invariant_survives_any_order_of_verbs() -> None:
    """A fourth of the operations is chosen by Hypothesis, which makes failures small; the rest at random, at full speed."""
    tally: Counter[str] = Counter()
    while_running = settings(
        max_examples=400,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: CacheMachine(tally), settings=while_running)  # type: ignore[arg-type]
    assert tally["operations"] - tally["refused"] >= NUM_OPERATIONS // 5, tally
    seed = 0
    while tally["operations"] - tally["refused"] < NUM_OPERATIONS:
        wander(seed, NUM_MOVES, tally)
        seed += 1
    for verb in (
        "submit",
        "refused",
        "complete",
        "abandon",
        "abort",
        "fail",
        "hit",
        "evicted",
        "shared",
        "preempted",
        "scored after a hit",
        "offered",
        "copied",
        "superseded",
        "hit inside a block",
    ):
        assert tally[verb] > 200, (verb, tally)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(shape=SHAPES, work=st.lists(st.tuples(PROMPTS, OPTIONS, st.integers(0, 3)), min_size=1, max_size=12))
def test_equal_histories_make_equal_plans(shape: Shape, work: list[tuple[tuple[int, ...], Options, int]]) -> None:
    def history() -> list[StepPlan | None]:
        world = World(shape, Counter())
        plans: list[StepPlan | None] = []
        for prompt, options, num_steps in work:
            world.submit(world.new_request(prompt, options))
            plans += [world.step() for _ in range(num_steps)]
        return plans

    assert history() == history()
