"""The canary: the fastest of several ways to read one buffer, and the words for it."""

from __future__ import annotations

import pytest

from quire.bench.machine_peak import MachinePeak, best_read, described, higher_peak
from quire.executors.native import available_isas, load_core

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")


@pytest.mark.parametrize("isa", available_isas())
def test_every_pattern_is_measured_and_none_is_faster_than_the_best(isa: str) -> None:
    speeds = load_core().measure_reads(isa, 2, 3 << 20, 2)
    assert len({(each.prefetch, each.in_streams, each.in_halves) for each in speeds}) == len(speeds) == 20
    assert all(0 < each.bytes_per_second <= best_read(speeds).bytes_per_second for each in speeds)


def test_every_pattern_has_words_of_its_own() -> None:
    speeds = load_core().measure_reads("", 1, 1, 1)
    words = {described(each) for each in speeds}
    assert len(words) == 20
    assert "no prefetch, one stream, slices as they come" in words
    assert "paced loads, one stream, a part per thread" in words
    assert "both prefetches, several streams, a part per thread" in words


def test_the_pattern_of_the_faster_reads_is_kept() -> None:
    slow, fast = MachinePeak(bandwidth=1.0, flops=2.0, reads="slow"), MachinePeak(bandwidth=2.0, flops=1.0, reads="fast")
    assert higher_peak(slow, fast) == higher_peak(fast, slow) == MachinePeak(bandwidth=2.0, flops=2.0, reads="fast")
