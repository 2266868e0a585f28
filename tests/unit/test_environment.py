"""Environment variables: what they mean, and that nonsense in one is said, not guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

import quire
from quire.environment import Environment, read_environment
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


def test_places_for_caches_are_read() -> None:
    found = read_environment({"QUIRE_PACKED_CACHE": " on ", "XDG_CACHE_HOME": "/var/cache"})
    assert (found.packed_cache, found.cache_home) == ("on", Path("/var/cache"))
    assert read_environment({"QUIRE_PACKED_CACHE": " ", "XDG_CACHE_HOME": "relative"}) == Environment()


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
