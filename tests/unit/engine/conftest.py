"""One small tokenizer for all tests of the engine; one `AsyncEngine` for those of a module, beside an `LLM` of its options."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire import LLM, AsyncEngine
from quire.text.tokenizer import Tokenizer
from support.async_calls import OPTIONS, run, settled
from support.fake_engine import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return Tokenizer.from_directory(directory)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(**OPTIONS) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[AsyncEngine]:
    engine = AsyncEngine(**OPTIONS)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
def engine(shared_engine: AsyncEngine) -> Iterator[AsyncEngine]:
    """The engine of a module's tests, each of which leaves it without requests and with every block free."""
    yield shared_engine
    run(settled(shared_engine))
    core = shared_engine.core
    assert (core.scheduler.manager.pool.num_free, core.integrity_errors) == (core.executor.num_blocks, [])
