"""Random workloads: whatever is submitted and aborted, each request is answered once, and as if it were alone."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.config import KVCacheMode, PrefixCache
from quire.engine.core import EngineCore
from quire.engine.step_events import Progress
from quire.request import FinishReason, RequestOutput
from quire.text.tokenizer import Tokenizer
from support.fake_engine import FakeExecutor, make_core, run_all, submission

POISON = 25


@dataclass(frozen=True)
class Arrival:
    step: int
    prompt: tuple[int, ...]
    max_tokens: int
    n: int
    stop: str | None
    abort_step: int | None


ARRIVALS = st.builds(
    Arrival,
    step=st.integers(0, 12),
    prompt=st.builds(
        lambda shared, own: tuple(i % 20 for i in range(shared)) + tuple(own),
        st.sampled_from([0, 20, 40]),
        st.lists(st.integers(0, POISON), min_size=1),
    ).map(lambda prompt: prompt[:60]),
    max_tokens=st.integers(1, 30),
    n=st.sampled_from([1, 1, 1, 3]),
    stop=st.sampled_from([None, None, "ab", "e"]),
    abort_step=st.one_of(st.none(), st.none(), st.integers(0, 25)),
)


def _submission(index: int, arrival: Arrival) -> object:
    params: dict[str, object] = {"temperature": 0.8, "seed": index, "n": arrival.n, "max_tokens": arrival.max_tokens}
    return submission(str(index), arrival.prompt, stop=arrival.stop or (), **params)


class _Reader:
    """Plays a workload against a core and keeps what every reader was told."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.outputs: dict[str, list[RequestOutput]] = {}
        self.texts: dict[tuple[str, int], str] = {}

    def play(self, arrivals: list[Arrival]) -> None:
        step = 0
        while self.core.has_work or any(arrival.step >= step for arrival in arrivals):
            for index, arrival in enumerate(arrivals):
                if arrival.step == step:
                    self.core.submit(_submission(index, arrival))  # type: ignore[arg-type]
                if arrival.abort_step == step and (output := self.core.abort(str(index))) is not None:
                    self.outputs.setdefault(output.request_id, []).append(output)
            for event in self.core.step():
                if isinstance(event, Progress):
                    key = (event.request_id, event.index)
                    self.texts[key] = self.texts.get(key, "") + event.text
                else:
                    self.outputs.setdefault(event.request_id, []).append(event)
            step += 1


def _certain(text: str, stop: str | None) -> str:
    """Returns the text of an aborted answer without an end that could have become the stop string."""
    begun = [stop[:length] for length in range(len(stop or "") - 1, 0, -1) if stop and text.endswith(stop[:length])]
    return text.removesuffix(begun[0]) if begun else text


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrivals=st.lists(ARRIVALS, min_size=1, max_size=6),
    num_blocks=st.sampled_from([4, 7, 64]),
    budget=st.sampled_from([3, 16, 100]),
    mode=st.sampled_from([(KVCacheMode.PAGED, PrefixCache.ON)] * 3 + [(KVCacheMode.OFF, PrefixCache.OFF)]),
)
def test_each_request_is_answered_once_and_as_if_alone(
    tokenizer: Tokenizer, arrivals: list[Arrival], num_blocks: int, budget: int, mode: tuple[KVCacheMode, PrefixCache]
) -> None:
    core = make_core(
        FakeExecutor(num_blocks, poison=POISON), tokenizer, max_num_batched_tokens=budget, mode=mode[0], prefix_cache=mode[1]
    )
    reader = _Reader(core)
    reader.play(arrivals)
    arrived = [str(index) for index in range(len(arrivals))]
    assert sorted(reader.outputs) == sorted(arrived)
    assert core.integrity_errors == []
    for index, arrival in enumerate(arrivals):
        (output,) = reader.outputs[str(index)]
        assert output.finished
        assert len(output.outputs) == arrival.n
        alone = run_all(make_core(FakeExecutor(poison=POISON), tokenizer), _submission(index, arrival))  # type: ignore[arg-type]
        for told, expected in zip(output.outputs, alone[str(index)].outputs, strict=True):
            assert told.finish_reason is not None
            if told.finish_reason is FinishReason.ABORT:
                assert told.token_ids == expected.token_ids[: len(told.token_ids)]
                assert expected.text.startswith(_certain(told.text, arrival.stop)) or told.text.endswith("\ufffd")
            else:
                assert told == expected
                assert reader.texts.get((str(index), told.index), "") == told.text
