"""The choice of a prefetch pattern: a bounded probe that only a clear difference sways, and a memory that nothing breaks."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from quire.environment import cache_directory
from quire.errors import ConfigError
from quire.executors.prefetch import (
    BUDGET_S,
    DEFAULT,
    NUM_REGIONS,
    Choice,
    Circumstances,
    Prefetch,
    choose,
    fastest,
    remember,
    remembered,
)

HERE = Circumstances(processor="Fast CPU 9", isa="avx2", weights="int8", threads=2)


class Memory:
    """Regions that take their pattern's seconds to read, and some of them `disturbance` times as long."""

    def __init__(self, seconds: dict[Prefetch, float], disturbance: float = 1.0) -> None:
        self._seconds = seconds
        self._disturbance = disturbance
        self.reads: list[tuple[int, Prefetch]] = []
        self.spent = 0.0

    def read(self, region: int, pattern: Prefetch) -> float:
        self.reads.append((region, pattern))
        seconds = self._seconds[pattern] * (self._disturbance if len(self.reads) % 4 == 3 else 1.0)
        self.spent += seconds
        return seconds


def seconds_of(unit: float, **shares: float) -> dict[Prefetch, float]:
    return {each: unit * shares.get(each.value, 1.0) for each in Prefetch}


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("QUIRE_PREFETCH", raising=False)


def memory_file() -> Path:
    directory = cache_directory()
    assert directory is not None
    return directory / "prefetch.json"


@pytest.mark.parametrize("winner", Prefetch)
def test_the_fastest_pattern_is_found(winner: Prefetch) -> None:
    memory = Memory(seconds_of(1e-4) | {winner: 0.9e-4})
    assert fastest(memory.read, NUM_REGIONS) is winner


def test_a_difference_that_may_be_noise_decides_nothing() -> None:
    assert fastest(Memory(seconds_of(1e-4, near=0.98, none=0.99)).read, NUM_REGIONS) is None
    assert fastest(Memory(seconds_of(1e-4, near=1.02, none=1.01, far=1.1, paced=1.2)).read, NUM_REGIONS) is DEFAULT


def test_two_threads_that_lose_their_turns_end_no_probe() -> None:
    memory = Memory(seconds_of(1e-4, none=0.9))

    def read(region: int, pattern: Prefetch) -> float:
        seconds = memory.read(region, pattern)
        return seconds + (4e-3 if len(memory.reads) in (5, 30) else 0)

    assert fastest(read, NUM_REGIONS) is Prefetch.NONE


def test_disturbed_reads_do_not_sway_the_choice() -> None:
    memory = Memory(seconds_of(1e-4, none=0.9), disturbance=3.0)
    assert fastest(memory.read, NUM_REGIONS) is Prefetch.NONE


@pytest.mark.parametrize("unit", [1e-6, 1e-5, 1e-4, 2e-4, 3e-4, 4e-4, 1e-3, 1.0])
def test_the_probe_exceeds_its_budget_by_one_read_at_most(unit: float) -> None:
    memory = Memory(seconds_of(unit, far=1.3, near=0.5))
    found = fastest(memory.read, NUM_REGIONS)
    assert memory.spent < BUDGET_S + 1.3 * unit
    assert found in (Prefetch.NEAR, None)
    assert (found is None) == (unit >= 4e-4)


def test_every_pattern_reads_every_region_and_none_twice_in_a_row() -> None:
    memory = Memory(seconds_of(2e-4))
    fastest(memory.read, NUM_REGIONS)
    sweep = memory.reads[3 : 3 + len(Prefetch) * NUM_REGIONS]
    assert set(Counter(sweep).values()) == {1}
    assert len(set(sweep)) == len(Prefetch) * NUM_REGIONS
    for start in range(len(sweep) - NUM_REGIONS + 1):
        assert len({region for region, _ in sweep[start : start + NUM_REGIONS]}) == NUM_REGIONS


@pytest.mark.parametrize(("slower", "found"), [(1.75, Prefetch.NONE), (2.2, None)])
def test_a_sweep_cut_short_decides_over_the_regions_it_finished(slower: float, found: Prefetch | None) -> None:
    memory = Memory(seconds_of(2.5e-4, none=0.8))
    later = Memory(seconds_of(2.5e-4 * slower, none=0.8))

    def read(region: int, pattern: Prefetch) -> float:
        return (memory if len(memory.reads) < 3 else later).read(region, pattern)

    assert fastest(read, NUM_REGIONS) is found
    counts = Counter(region for region, _ in later.reads)
    assert min(counts.values()) < len(Prefetch)
    assert (sum(count == len(Prefetch) for count in counts.values()) >= 8) == (found is not None)


@pytest.mark.parametrize("num_regions", [0, 1, 7])
def test_too_few_regions_are_not_probed(num_regions: int) -> None:
    memory = Memory(seconds_of(1e-4))
    assert fastest(memory.read, num_regions) is None
    assert not memory.reads


def test_what_a_probe_found_is_remembered() -> None:
    assert choose(HERE, lambda: Prefetch.NONE) == Choice(pattern=Prefetch.NONE, source="probed")
    assert choose(HERE, lambda: pytest.fail("probed again")) == Choice(pattern=Prefetch.NONE, source="remembered")


def test_a_probe_without_result_is_tried_again() -> None:
    assert str(choose(HERE, lambda: None)) == "both (default)"
    assert choose(HERE, lambda: Prefetch.NEAR).source == "probed"


@pytest.mark.parametrize("other", [{"processor": "x"}, {"isa": "avx512"}, {"weights": "int4"}, {"threads": 1}, {"version": 0}])
def test_other_circumstances_are_other_choices(other: dict[str, str | int]) -> None:
    remember(HERE, Prefetch.NONE)
    remember(replace(HERE, **other), Prefetch.FAR)
    assert remembered(HERE) is Prefetch.NONE
    assert remembered(replace(HERE, **other)) is Prefetch.FAR
    assert remembered(replace(HERE, processor="unknown")) is None


@pytest.mark.parametrize("word", ["none", "near", "far", "both", "paced"])
def test_the_environment_overrides_what_is_remembered(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    remember(HERE, Prefetch.NEAR)
    monkeypatch.setenv("QUIRE_PREFETCH", word)
    assert choose(HERE, lambda: pytest.fail("probed")) == Choice(pattern=Prefetch(word), source="QUIRE_PREFETCH")


@pytest.mark.parametrize("word", ["auto", " AUTO ", ""])
def test_auto_is_the_probe(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("QUIRE_PREFETCH", word)
    assert choose(HERE, lambda: Prefetch.FAR).source == "probed"


def test_a_word_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_PREFETCH", "nearby")
    with pytest.raises(ConfigError, match="QUIRE_PREFETCH"):
        choose(HERE, lambda: None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b"[]",
        b"null",
        b'{"choices": 5}',
        b'{"choices": [5]}',
        b'{"choices": [{}]}',
        b'{"choices": [{"for": {"isa": "avx2"}, "prefetch": "none"}]}',
        b'{"choices": [{"for": [], "prefetch": "none"}]}',
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:40]),
)
def test_a_damaged_file_is_forgotten_and_written_again(content: bytes) -> None:
    memory_file().parent.mkdir(parents=True)
    memory_file().write_bytes(content)
    assert remembered(HERE) is None
    remember(HERE, Prefetch.FAR)
    assert remembered(HERE) is Prefetch.FAR


def test_an_unknown_pattern_is_forgotten() -> None:
    remember(HERE, Prefetch.FAR)
    memory_file().write_text(memory_file().read_text().replace('"far"', '"everywhere"'))
    assert remembered(HERE) is None


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "quire").write_text("a file where the directory would be")
    remember(HERE, Prefetch.FAR)
    assert remembered(HERE) is None


def test_the_file_stays_small_and_keeps_the_latest() -> None:
    for number in range(100):
        remember(replace(HERE, processor=f"CPU {number} " + "x" * 300), Prefetch.NEAR)
    assert remembered(replace(HERE, processor="CPU 99 " + "x" * 300)) is Prefetch.NEAR
    assert len(json.loads(memory_file().read_text())["choices"]) <= 64
    assert [each.name for each in memory_file().parent.iterdir()] == ["prefetch.json"]
