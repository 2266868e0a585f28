"""One small tokenizer for all tests of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.text.tokenizer import Tokenizer
from support.fake_engine import write_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return Tokenizer.from_directory(directory)
