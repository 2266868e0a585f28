"""Environment variables: what they mean, and that nonsense in one is said, not guessed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

import quire
from quire.environment import Environment, Memory, cache_directory, processor, read_environment, read_memory
from quire.errors import ConfigError

SWITCHES = ["QUIRE_OFFLINE", "HF_HUB_OFFLINE"]


def test_nothing_set_leaves_everything_open() -> None:
    assert read_environment({}) == Environment(isa=None, threads=None, is_offline=False)


def test_empty_variables_count_as_unset() -> None:
    assert read_environment(dict.fromkeys(["QUIRE_ISA", "QUIRE_THREADS", *SWITCHES], " ")) == Environment()


def test_values_are_read() -> None:
    variables = {"QUIRE_ISA": " avx2 ", "QUIRE_THREADS": " 3 ", "QUIRE_OFFLINE": "1"}
    assert read_environment(variables) == Environment(isa="avx2", threads=3, is_offline=True)


def test_this_process_is_asked_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_THREADS", "5")
    assert read_environment().threads == 5


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize(
    ("text", "is_offline"), [("1", True), ("True", True), ("YES", True), ("on", True), ("0", False), ("no", False)]
)
def test_either_switch_keeps_quire_offline(name: str, text: str, is_offline: bool) -> None:
    assert read_environment({name: text}).is_offline is is_offline


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("text", ["2", "offline", "tru", "-1"])
def test_switch_that_is_neither_on_nor_off_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        read_environment({name: text})


@pytest.mark.parametrize(("text", "word"), [("none", "none"), (" Far ", "far"), ("auto", None), ("", None)])
def test_prefetch_is_one_of_its_words(text: str, word: str | None) -> None:
    assert read_environment({"QUIRE_PREFETCH": text}).prefetch == word
    with pytest.raises(ConfigError, match="QUIRE_PREFETCH"):
        read_environment({"QUIRE_PREFETCH": f"{text}x"})


def test_a_processor_is_known_by_its_first_core(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    core = "vendor_id\t: V\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: Fast {}\nstepping\t: 1\n\n"
    (tmp_path / "proc/cpuinfo").write_text(core.format(1) + core.format(2))
    assert processor(tmp_path) == "V 25 17 1 Fast 1"
    assert processor(tmp_path / "nothing")


def test_place_for_packed_weights_is_read() -> None:
    assert read_environment({"QUIRE_PACKED_CACHE": " on "}).packed_cache == "on"
    assert read_environment({"QUIRE_PACKED_CACHE": " "}) == Environment()


def test_cache_directory_lies_below_an_absolute_path_or_the_home() -> None:
    assert cache_directory({"XDG_CACHE_HOME": "/var/cache"}) == Path("/var/cache/quire")
    assert cache_directory({"XDG_CACHE_HOME": "relative"}) == cache_directory({}) == Path.home() / ".cache/quire"


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", "1025", "9" * 5000, "0x2", "\u0662", "1_0", "nan"])
def test_impossible_number_of_threads_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="QUIRE_THREADS"):
        read_environment({"QUIRE_THREADS": text})


def test_environment_is_read_in_one_file() -> None:
    package = Path(quire.__file__).parent
    readers = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(word in path.read_text() for word in ("os.environ", "getenv", "import environ"))
    ]
    assert readers == ["environment.py"]


GIB = 1 << 30
MEMINFO = "MemTotal: 16777216 kB\nMemFree: 1048576 kB\nMemAvailable: 8388608 kB\nSwapTotal: 4 kB\nSwapFree: 2097152 kB\n"
MACHINE = Memory(total_bytes=16 * GIB, available_bytes=8 * GIB, swap_bytes=2 * GIB)


def _machine(root: Path, files: Mapping[str, str]) -> Memory | None:
    for name, text in ({"proc/meminfo": MEMINFO} | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_memory(root)


def test_memory_of_the_machine_counts_what_caches_give_back(tmp_path: Path) -> None:
    assert _machine(tmp_path, {}) == MACHINE
    assert MACHINE.reachable_bytes == 10 * GIB


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"
GROUPS = {
    "a container": {f"{V2}/memory.max": f"{4 * GIB}\n", f"{V2}/memory.current": f"{3 * GIB}\n"},
    "a container's own path": {
        "proc/self/cgroup": "0::/user/unit\n",
        f"{V2}/user/unit/memory.max": f"{4 * GIB}\n",
        f"{V2}/user/unit/memory.current": f"{3 * GIB}\n",
    },
    "a group above it": {
        "proc/self/cgroup": "0::/user/unit\n",
        f"{V2}/user/unit/memory.max": "max\n",
        f"{V2}/user/memory.max": f"{4 * GIB}\n",
        f"{V2}/user/memory.current": f"{3 * GIB}\n",
    },
    "the first version": {
        "proc/self/cgroup": "3:cpu:/\n2:memory,misc:/box\n",
        f"{V1}/box/memory.limit_in_bytes": f"{4 * GIB}\n",
        f"{V1}/box/memory.usage_in_bytes": f"{3 * GIB}\n",
    },
    "a path that is not mounted": {
        "proc/self/cgroup": "2:memory:/docker/1\n",
        f"{V1}/memory.limit_in_bytes": f"{4 * GIB}\n",
        f"{V1}/memory.usage_in_bytes": f"{3 * GIB}\n",
    },
}


@pytest.mark.parametrize("files", GROUPS.values(), ids=GROUPS)
def test_memory_is_what_control_groups_leave(tmp_path: Path, files: dict[str, str]) -> None:
    assert _machine(tmp_path, files) == Memory(total_bytes=4 * GIB, available_bytes=GIB, swap_bytes=2 * GIB)


@pytest.mark.parametrize(("top", "prefix"), [(V2, ""), (V1, "total_")])
def test_a_groups_page_cache_is_available(tmp_path: Path, top: str, prefix: str) -> None:
    is_v2 = top == V2
    files = {
        f"{top}/{'memory.max' if is_v2 else 'memory.limit_in_bytes'}": str(4 * GIB),
        f"{top}/{'memory.current' if is_v2 else 'memory.usage_in_bytes'}": str(4 * GIB),
        f"{top}/memory.stat": f"anon 5\n{prefix}inactive_file {GIB}\n{prefix}active_file {GIB}\n",
    }
    memory = _machine(tmp_path, files)
    assert memory is not None
    assert memory.available_bytes == 2 * GIB


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", "nonsense", ""])
def test_a_group_without_a_limit_changes_nothing(tmp_path: Path, limit: str) -> None:
    assert _machine(tmp_path, {f"{V2}/memory.max": limit, f"{V2}/memory.current": "4096"}) == MACHINE


def test_without_proc_all_of_the_memory_counts_as_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert read_memory(tmp_path) == Memory(total_bytes=4_096_000, available_bytes=4_096_000)


def test_memory_is_unknown_where_nothing_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf")
    assert read_memory(tmp_path) is None
