"""Any interleaving of submissions, aborts, departures and steps: exactly one final output per accepted submission."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine.routing import RoutedCore
from quire.engine.step_events import StepEvent
from quire.errors import RequestError
from quire.request import FinishReason, RequestOutput
from quire.text.tokenizer import Tokenizer
from support.fake_engine import VOCAB_SIZE, FakeExecutor, make_core, submission, write_tokenizer

IDS = ("a", "b", "c")
COMMANDS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from(IDS), st.integers(1, 70), st.integers(1, 6)),
        st.tuples(st.just("refused"), st.sampled_from(IDS)),
        st.tuples(st.just("abort"), st.sampled_from(IDS)),
        st.tuples(st.just("leave"), st.sampled_from(IDS)),
        st.tuples(st.just("step")),
    ),
    max_size=30,
)


class Recorder:
    """Keeps all that one submission's reader gets."""

    def __init__(self) -> None:
        self.is_ready = False
        self.finals: list[RequestOutput] = []
        self.num_tokens = 0
        self.errors: list[BaseException] = []
        self.has_left = False

    def read(self, event: StepEvent) -> None:
        assert not self.has_left
        assert not self.finals
        if isinstance(event, RequestOutput):
            self.finals.append(event)
        else:
            self.num_tokens += 1

    def fail(self, error: BaseException) -> None:
        self.errors.append(error)


class World:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.core = make_core(FakeExecutor(num_blocks=8), tokenizer, max_num_seqs=2)
        self.routed = RoutedCore(self.core, "engine")
        self.readers: list[Recorder] = []
        self._latest: dict[str, Recorder] = {}
        self._number = 0
        self._ids: dict[str, str] = {}

    def submit(self, name: str, num_prompt: int, num_new: int) -> None:
        self._number += 1
        request_id = self._ids[name] = f"{name}{self._number}"
        reader = self._latest[name] = Recorder()
        asked = submission(request_id, tuple(index % 26 for index in range(num_prompt)), max_tokens=num_new, ignore_eos=True)
        self.routed.submit(self.routed.check([asked]), reader)
        self.readers.append(reader)

    def refused(self, name: str) -> None:
        with pytest.raises(RequestError):
            self.routed.check([submission(f"{name}-bad", (VOCAB_SIZE,))])

    def abort(self, name: str) -> None:
        self.routed.inbox.abort(self._ids.get(name, "unknown"))

    def leave(self, name: str) -> None:
        if name in self._latest and not self._latest[name].finals:
            self._latest[name].has_left = True
        self.routed.leave([self._ids.get(name, "unknown")])

    def step(self) -> None:
        self.routed.step()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return Tokenizer.from_directory(directory)


@given(commands=COMMANDS)
@settings(max_examples=150, deadline=None)
def test_every_accepted_submission_gets_one_final_output(tokenizer: Tokenizer, commands: list[tuple[object, ...]]) -> None:
    world = World(tokenizer)
    for verb, *arguments in commands:
        getattr(world, str(verb))(*arguments)
    while world.routed.step():
        pass
    for reader in world.readers:
        assert reader.errors == []
        assert len(reader.finals) == (0 if reader.has_left else 1)
        for final in reader.finals:
            assert final.finished
            assert final.outputs[0].finish_reason in (FinishReason.LENGTH, FinishReason.ABORT)
            assert len(final.outputs[0].token_ids) == reader.num_tokens
    assert (world.core.has_work, world.core.integrity_errors) == (False, [])
    assert world.core.scheduler.manager.pool.num_free == 8
    assert world.routed.inbox.is_empty
