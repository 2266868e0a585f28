"""Steps with decoding requests are brought to the target, whatever a machine's steps take."""

from __future__ import annotations

import random

import pytest

from quire.sched.pace import MIN_TOKENS, Pace
from quire.sched.plan import StepPlan
from quire.sched.scheduler import Scheduler
from support.sched_world import completed, large_scheduler, planned, prompt_of, scheduler_of

TARGET_S = 0.15


def seconds_of(num_decoding: int, num_prompt: int, *, base: float = 0.06, cost: float = 0.0015) -> float:
    return base + 0.002 * num_decoding + cost * num_prompt


def paced(pace: Pace, num_steps: int, *, noise: float = 0.0, base: float = 0.06, cost: float = 0.0015) -> list[float]:
    """Runs mixed steps on a machine of these speeds and returns their seconds."""
    dice, times = random.Random(1), []
    for _ in range(num_steps):
        size = pace.max_prompt_tokens()
        seconds = seconds_of(4, size, base=base, cost=cost) * dice.uniform(1 - noise, 1 + noise)
        pace.note(4, size, seconds)
        times.append(seconds)
    return times


@pytest.mark.parametrize(("base", "cost"), [(0.06, 0.0015), (0.01, 0.0002), (0.12, 0.0008), (0.03, 0.006)])
@pytest.mark.parametrize("base_error", [0.0, 0.5, 1.0, 2.0])
def test_steps_come_to_the_target_even_where_the_base_is_wrong(base: float, cost: float, base_error: float) -> None:
    pace = Pace(TARGET_S)
    if base_error:
        pace.note(4, 0, base * base_error)
    times = paced(pace, 60, base=base, cost=cost)
    assert times[-1] == pytest.approx(TARGET_S, rel=0.06)
    assert max(times) <= 1.2 * TARGET_S


def test_noise_and_hiccups_do_not_throw_it_off() -> None:
    pace = Pace(TARGET_S)
    pace.note(4, 0, seconds_of(4, 0))
    times = paced(pace, 500, noise=0.08)[50:]
    assert sum(times) / len(times) == pytest.approx(TARGET_S, rel=0.05)
    assert sorted(times)[int(0.99 * len(times))] <= 1.2 * TARGET_S
    size = pace.max_prompt_tokens()
    pace.note(4, size, 3.0)
    assert pace.max_prompt_tokens() >= 0.6 * size
    paced(pace, 10)
    assert pace.max_prompt_tokens() >= 0.9 * size


def test_follows_a_cost_that_grows_with_the_context() -> None:
    pace = Pace(TARGET_S)
    times = [paced(pace, 1, cost=0.0008 * (1 + step / 100))[0] for step in range(200)]
    assert max(times[10:]) <= 1.1 * TARGET_S
    assert min(times[20:]) >= 0.9 * TARGET_S


def test_prompt_goes_on_where_the_decoding_requests_alone_take_longer() -> None:
    pace = Pace(TARGET_S)
    pace.note(64, 0, 0.4)
    paced(pace, 20, base=0.4)
    assert pace.max_prompt_tokens() == MIN_TOKENS


def test_recovers_from_a_base_of_more_requests() -> None:
    pace = Pace(TARGET_S)
    for _ in range(20):
        pace.note(64, 0, 0.4)
    assert paced(pace, 40)[-1] == pytest.approx(TARGET_S, rel=0.1)


def test_short_last_chunk_does_not_change_the_size() -> None:
    pace = Pace(TARGET_S)
    paced(pace, 40)
    size = pace.max_prompt_tokens()
    pace.note(4, 3, 0.09)
    assert pace.max_prompt_tokens() == pytest.approx(size, rel=0.1)


# -- in the scheduler --------------------------------------------------------------------------------


def test_only_steps_with_decoding_requests_are_bounded() -> None:
    scheduler = large_scheduler(itl_target_s=TARGET_S)
    scheduler.submit(prompt_of("first", 1_000, 1, max_tokens=200))
    sizes = []
    for _ in range(3):
        plan = planned(scheduler)
        sizes.append(plan.num_tokens)
        scheduler.note_step_time(plan, seconds_of(0, plan.num_tokens))
        completed(scheduler, plan)
    assert sizes == [512, 488, 1]
    scheduler.submit(prompt_of("long", 8_000, 2))
    times = []
    for _ in range(100):
        plan = planned(scheduler)
        times.append(seconds_of(1, plan.num_tokens - 1))
        scheduler.note_step_time(plan, times[-1])
        completed(scheduler, plan)
    assert max(times) <= 1.2 * TARGET_S
    assert times[50] == pytest.approx(TARGET_S, rel=0.1)


def test_without_a_target_times_change_nothing() -> None:
    scheduler = large_scheduler()
    scheduler.submit(prompt_of("first", 10, 1, max_tokens=200))
    completed(scheduler, planned(scheduler))
    scheduler.submit(prompt_of("long", 8_000, 2))
    for _ in range(10):
        plan = planned(scheduler)
        assert plan.num_tokens == 512
        scheduler.note_step_time(plan, 100.0)
        completed(scheduler, plan)


def test_prompt_tokens_are_counted_without_the_requests_that_made_room_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[tuple[int, int]] = []
    monkeypatch.setattr(Pace, "note", lambda _, num_decoding, num_prompt, __: noted.append((num_decoding, num_prompt)))
    scheduler = scheduler_of(22, budget=64, itl_target_s=TARGET_S)
    for index in range(3):
        scheduler.submit(prompt_of(f"decodes{index}", 4, index, max_tokens=30, priority=1))
    while not noted or noted[-1][0] < 3:
        _measured_step(scheduler)
    scheduler.submit(prompt := prompt_of("long", 60, 4, max_tokens=1))
    num_preempted = 0
    while not prompt.output_token_ids:
        plan = _measured_step(scheduler)
        num_preempted += len(plan.preempted)
        *decoding, long = plan.scheduled
        assert long.request_id == "long"
        assert noted[-1] == (len(decoding), long.num_tokens)
    assert num_preempted == 2, "one by a request that decodes, one by the prompt"


def _measured_step(scheduler: Scheduler) -> StepPlan:
    plan = planned(scheduler)
    scheduler.note_step_time(plan, 0.1)
    completed(scheduler, plan)
    return plan
