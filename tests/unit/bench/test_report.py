"""Rooflines and shares are plain arithmetic over what was measured."""

from __future__ import annotations

import pytest

from quire.bench.cost import Cost, WeightBytes, chunk_work, decode_cost, prefill_cost
from quire.bench.kernels import KernelWork, difference
from quire.bench.machine_peak import MachinePeak, higher_peak
from quire.bench.report import Samples, speed_of, spread
from quire.config import KVFormat
from quire.executors.protocol import kv_layout
from quire.models.checkpoint import Checkpoint

MACHINE = MachinePeak(bandwidth=100.0, flops=1000.0)


@pytest.mark.parametrize(("flops", "num_bytes", "seconds"), [(5000, 100, 5.0), (500, 400, 4.0), (2000, None, 2.0)])
def test_the_roofline_is_the_slower_of_computing_and_reading(flops: int, num_bytes: int | None, seconds: float) -> None:
    assert Cost(flops=flops, num_bytes=num_bytes).roofline_s(MACHINE) == seconds


def test_shares_are_of_the_median_run() -> None:
    cost = Cost(flops=1000, num_bytes=400)
    speed = speed_of(Samples(name="x", seconds=[9.0, 8.0, 20.0], num_tokens=18, costs=(cost,)), MACHINE)
    assert speed.seconds == 9.0
    assert speed.tokens_per_second == 2.0
    assert speed.spread == pytest.approx(12 / 9)
    assert speed.roofline_seconds == 4.0
    assert speed.share_of_roofline == pytest.approx(4 / 9)
    assert speed.share_of_bandwidth == pytest.approx(400 / 9 / 100)
    assert speed.share_of_flops == pytest.approx(1 / 9)


def test_parts_of_a_run_add_up_one_after_the_other() -> None:
    parts = (Cost(flops=5000), Cost(flops=10, num_bytes=300))
    speed = speed_of(Samples(name="x", seconds=[16.0], costs=parts), MACHINE)
    assert speed.roofline_seconds == 5.0 + 3.0
    assert speed.share_of_bandwidth is None  # nobody counted the bytes of the first part
    assert speed.tokens_per_second is None


def test_what_has_no_cost_has_no_shares() -> None:
    speed = speed_of(Samples(name="import", seconds=[0.5, 0.5]), MACHINE)
    assert (speed.roofline_seconds, speed.share_of_roofline, speed.share_of_flops) == (None, None, None)
    assert spread([0.5, 0.5]) == 0


def test_shares_count_against_the_higher_peak() -> None:
    other = MachinePeak(bandwidth=90.0, flops=1100.0)
    assert higher_peak(MACHINE, other) == MachinePeak(bandwidth=100.0, flops=1100.0)


def test_a_prompt_in_two_parts_costs_what_it_costs_whole_and_one_more_head(checkpoint: Checkpoint) -> None:
    spec = checkpoint.spec
    whole, first, rest = (prefill_cost(spec, 1, start, count).flops for start, count in ((0, 50), (0, 20), (20, 30)))
    assert first + rest == whole + 2 * chunk_work(spec, 0, 0, 1).total


def test_a_decode_step_reads_the_context_of_every_request(checkpoint: Checkpoint) -> None:
    layout = kv_layout(checkpoint.spec, 32, KVFormat.BFLOAT16)
    weights = WeightBytes(layers=1000, head=200)
    one, two = (decode_cost(checkpoint.spec, weights, layout, contexts) for contexts in ((70,), (70, 30)))
    assert two.num_bytes is not None
    assert one.num_bytes is not None
    assert two.num_bytes - one.num_bytes == 30 * layout.bytes_per_token
    assert two.flops - one.flops == 2 * chunk_work(checkpoint.spec, 29, 30, 1).total


def test_attention_is_a_difference_unless_noise_swallows_it() -> None:
    cost = Cost(flops=1000, num_bytes=1)
    assert difference("d", [(5.0, 3.0), (6.0, 3.0)], 1, cost).seconds == [2.0, 3.0]
    lost = difference("d", [(5.0, 6.0)], 1, cost)
    assert "lost in noise" in lost.name
    assert (lost.seconds, lost.costs) == ([5.0], ())


def test_parts_beyond_the_context_are_left_out() -> None:
    work = KernelWork().within(1024)
    assert (max(work.rows), work.depths) == (512, (512,))
    assert KernelWork().within(40).rows == (1, 2, 4, 8, 16, 32)
