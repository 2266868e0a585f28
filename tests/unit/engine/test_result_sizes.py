"""Results too large for the machine are refused before they are computed."""

from __future__ import annotations

import numpy as np
import pytest

from quire.engine import capacity
from quire.engine.capacity import require_logit_room
from quire.engine.core import EngineCore
from quire.environment import Memory
from quire.errors import CapacityError
from quire.text.tokenizer import Tokenizer
from quire.units import GIB
from support.fake_engine import FakeExecutor, make_core, run_all, submission

PROMPT = tuple(range(20)) * 3


@pytest.fixture
def core(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> EngineCore:
    monkeypatch.setattr(capacity, "read_memory", lambda: Memory(total_bytes=GIB, available_bytes=GIB // 3))
    return make_core(FakeExecutor(), tokenizer)


LARGE = {"n": 64, "temperature": 1.0, "max_tokens": 400, "logprobs": 1000}


def test_log_probabilities_beyond_memory_are_refused_with_the_numbers(core: EngineCore) -> None:
    with pytest.raises(CapacityError, match="need more memory than there is") as caught:
        core.submit(submission("a", PROMPT, **LARGE))
    assert caught.value.given == f"{64 * 400 * 1001} of them, 6.1 GiB"
    assert caught.value.limit == "341.3 MiB available"
    with pytest.raises(CapacityError, match="need more memory"):
        core.check(submission("a", PROMPT, **LARGE))
    assert not core.has_work
    assert list(run_all(core, submission("b", PROMPT))) == ["b"]
    assert core.integrity_errors == []


@pytest.mark.parametrize("change", [{"logprobs": None}, {"logprobs": 1}, {"max_tokens": None}, {"n": 1, "max_tokens": 100}])
def test_what_may_fit_is_accepted(core: EngineCore, change: dict[str, object]) -> None:
    core.check(submission("a", PROMPT, **(LARGE | change)))


def test_an_unknown_machine_refuses_no_log_probabilities(core: EngineCore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "read_memory", lambda: None)
    core.check(submission("a", PROMPT, **LARGE))


def test_logits_returned_whole_must_fit(core: EngineCore) -> None:
    assert core.executor.num_blocks
    with pytest.raises(
        CapacityError, match=r"200000 tokens, 22\.4 GiB; limit: 341\.3 MiB available\)\. Pass at most 2982 tokens"
    ):
        require_logit_room((100, 2000), 30_000)
    require_logit_room(np.zeros((2, 1400)).shape, 30_000)
