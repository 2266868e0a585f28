"""What holds for the whole suite."""

from __future__ import annotations

import inspect
import os
import re
import signal
from collections.abc import Iterator
from functools import cache
from types import FunctionType

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported, and for every process that a test starts: two workers, each with a thread per core that spins
# while it waits for the others, take many times as long as with one thread each. Tests about threads say how many they want.
os.environ["OMP_NUM_THREADS"] = "1"

# How long an example takes says how busy the machine is.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

_REFUSAL = re.compile(r"raises\(|refus|error|wrong|invalid|fail|exit_code|returncode|warn", re.IGNORECASE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks `refusal`, where -m may ask for it: tests whose id or code speaks of an error, an exit code, a warning, a refusal."""
    for item in items if config.getoption("markexpr") else ():
        if _REFUSAL.search(item.nodeid) or (isinstance(item, pytest.Function) and _speaks_of_refusal(item.function)):
            item.add_marker("refusal")


@cache
def _speaks_of_refusal(function: FunctionType) -> bool:
    return _REFUSAL.search(inspect.getsource(function)) is not None


@pytest.fixture(scope="session", autouse=True)
def _interrupts_arrive() -> Iterator[None]:
    """Undoes an ignored Ctrl-C: a suite started in the background inherits one, and so would every command it starts."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what Quire remembers of weight files out of the home directory, also in the processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
