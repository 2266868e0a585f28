"""Random use of a `World`: what the cache machine's rules do, drawn by a seeded generator instead of Hypothesis."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from quire.config import KVCacheMode, PrefixCache
from quire.request import Request
from support.cache_world import MAX_CONTEXT, VOCABULARY, Options, Shape, World

_FAMILIES = tuple(tuple((family * k * k + k // 3) % VOCABULARY for k in range(MAX_CONTEXT)) for family in range(3))
_MAX_LIVE = 12


def shape_of(dice: random.Random) -> Shape:
    """Draws a small engine."""
    block_size, tile = dice.choice([(2, 0), (4, 0), (3, 0), (8, 0), (2, 2), (4, 4), (8, 4), (8, 8)])
    return Shape(
        block_size=block_size,
        tile=tile,
        num_own_tiles=dice.randint(1, 5),
        num_blocks=dice.randint(5, 14),
        budget=dice.randint(2, 20),
        max_num_seqs=dice.randint(2, 5),
        mode=dice.choice([KVCacheMode.PAGED] * 9 + [KVCacheMode.OFF]),
        prefix_cache=dice.choice([PrefixCache.ON] * 9 + [PrefixCache.OFF]),
    )


def options_of(dice: random.Random) -> Options:
    """Draws what a request asks for."""
    return Options(
        max_tokens=dice.choice([1, 2, 5, 9, 14, None]),
        priority=dice.choice([0, 0, 0, 1, -1]),
        tenant=dice.choice(["", "", "", "other"]),
        prompt_logprobs=dice.choice([None] * 4 + [1]),
        num_context_tokens=dice.choice([0, 3, 5, 9, 14]),
    )


def prompt_of(dice: random.Random) -> tuple[int, ...]:
    """Draws a prompt that often shares its first tokens with others."""
    family = dice.choice(_FAMILIES)[: dice.randint(0, 16)]
    return (*family, *(dice.randrange(VOCABULARY) for _ in range(dice.randint(0, 4))))


def wander(seed: int, num_moves: int, tally: Counter[str]) -> World:
    """Makes so many random moves in one world, lets all its requests end, and returns it."""
    dice = random.Random(seed)
    world = World(shape_of(dice), tally)
    for _ in range(num_moves):
        dice.choices(_MOVES, _WEIGHTS)[0](world, dice)
    world.drain()
    return world


def _pick(world: World, dice: random.Random) -> Request | None:
    return dice.choice(list(world.live.values())) if world.live else None


def _submit(world: World, dice: random.Random) -> None:
    options = options_of(dice)
    if dice.random() < 0.3 and len(world.live) < _MAX_LIVE:
        prompt, group_id = prompt_of(dice), f"group of r{world.num_submitted}"
        for index in range(dice.randint(2, 4)):
            request = world.new_request(prompt, options if not index else replace(options, prompt_logprobs=None))
            request.group_id = group_id
            world.submit(request)
    for prompt in [prompt_of(dice) for _ in range(dice.randint(1, 3))] * dice.choice([1, 1, 2, 3]):
        if len(world.live) < _MAX_LIVE:
            world.submit(world.new_request(prompt, options))


def _branch(world: World, dice: random.Random) -> None:
    parent = _pick(world, dice)
    if parent is None or len(world.live) >= _MAX_LIVE:
        return
    prompt = [*parent.token_ids(0, parent.num_tokens), *(dice.randrange(VOCABULARY) for _ in range(dice.randint(1, 3)))]
    if dice.random() < 0.5:
        prompt[dice.randrange(len(prompt))] = VOCABULARY  # the branch leaves the tokens of its parent here
    options = options_of(dice)
    world.submit(
        world.new_request(
            tuple(prompt),
            Options(max_tokens=3, priority=options.priority, tenant=parent.tenant, prompt_logprobs=None, num_context_tokens=0),
        )
    )


def _steps(world: World, dice: random.Random) -> None:
    for _ in range(dice.randint(1, 12)):
        if world.scheduler.has_work:
            world.step()


def _end(world: World, dice: random.Random) -> None:
    request = _pick(world, dice)
    if request is not None:
        world.end(request, dice.choice(["abort", "fail"]))


def _end_in_flight(world: World, dice: random.Random) -> None:
    plan, request = world.plan(), _pick(world, dice)
    if plan is not None and request is not None:
        world.end(request, "abort")
        world.run(plan)
        (world.abandon if dice.random() < 0.5 else world.complete)(plan)


def _fail_step(world: World, dice: random.Random) -> None:
    del dice
    plan = world.plan()
    if plan is not None:
        world.abandon(plan)


_MOVES = (_submit, _branch, _steps, _end, _end_in_flight, _fail_step)
_WEIGHTS = (4, 3, 8, 1, 2, 2)
