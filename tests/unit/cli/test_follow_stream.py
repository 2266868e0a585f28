"""Following a stream: text as it comes, Ctrl-C, counting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from quire.cli.follow_stream import (
    Answer,
    AnswerStats,
    follow,
    follow_all,
    harmless,
    note_of_full_context,
    raise_failure,
    stats_of,
    stats_of_all,
)
from quire.config import KVFormat
from quire.errors import ExecutorError
from quire.kv.layout import KVLayout
from quire.request import CompletionOutput, FinishReason, RequestMetrics, RequestOutput, SamplingParams
from quire.sched.limits import ContextBound, RequestLimits

LAYOUT = KVLayout(num_layers=1, num_kv_heads=1, head_dim=16, block_size=32, format=KVFormat.FLOAT32)
LIMITS = RequestLimits(max_context=64, num_blocks=4, block_size=32)
METRICS = RequestMetrics(ttft_s=0.5, e2e_s=None, num_preemptions=0, num_steps=1)


def _output(
    text: str,
    token_ids: tuple[int, ...],
    *,
    reason: FinishReason | None = None,
    error: str | None = None,
    metrics: RequestMetrics = METRICS,
) -> RequestOutput:
    completion = CompletionOutput(
        index=0, text=text, token_ids=token_ids, finish_reason=reason, stop_reason=None, seed=1, error=error
    )
    return RequestOutput(
        request_id="request-1",
        prompt=None,
        prompt_token_ids=tuple(range(31)),
        prompt_logprobs=None,
        outputs=(completion,),
        num_cached_tokens=8,
        metrics=metrics,
        finished=reason is not None,
    )


def _finished(reason: FinishReason = FinishReason.STOP) -> RequestOutput:
    metrics = RequestMetrics(ttft_s=0.5, e2e_s=1.5, num_preemptions=0, num_steps=3)
    return _output("", (), reason=reason, metrics=metrics)


def test_text_is_handed_on_as_it_comes() -> None:
    pieces: list[str] = []
    answer = follow(iter([_output("He", (1,)), _output("", (2,)), _output("llo", (3,)), _finished()]), pieces.append)
    assert pieces == ["He", "", "llo", ""]
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("Hello", [1, 2, 3], FinishReason.STOP)


def test_interrupt_keeps_what_came_before() -> None:
    def stream() -> Iterator[RequestOutput]:
        yield _output("He", (1,))
        raise KeyboardInterrupt

    answer = follow(stream(), lambda _text: None)
    assert answer.was_interrupted
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("He", [1], FinishReason.ABORT)


def test_interrupt_before_the_first_token_leaves_nothing_to_count() -> None:
    def stream() -> Iterator[RequestOutput]:
        raise KeyboardInterrupt
        yield _finished()

    answer = follow(stream(), lambda _text: None)
    assert stats_of(answer, LAYOUT) is None
    assert answer.finish_reason is FinishReason.ABORT


def test_failure_becomes_an_executor_error() -> None:
    failed = _output("", (), reason=FinishReason.ERROR, error="NaN in the logits (given: row 3). Check the weights.")
    with pytest.raises(ExecutorError) as caught:
        raise_failure(follow(iter([failed]), lambda _text: None))
    assert str(caught.value) == "the answer failed: NaN in the logits (given: row 3). Check the weights."
    failed = _output("", (), reason=FinishReason.ERROR, error="NaN in the logits")
    with pytest.raises(ExecutorError, match="NaN in the logits"):
        raise_failure(follow(iter([failed]), lambda _text: None))
    raise_failure(Answer())


def test_stats_count_blocks_of_tokens_that_have_kv() -> None:
    one = stats_of(follow(iter([_output("a", (1,)), _output("b", (2,)), _finished()]), lambda _text: None), LAYOUT)
    assert one is not None
    assert one.kv_bytes == LAYOUT.bytes_per_block  # 31 + 2 tokens, the newest without K/V
    two = stats_of(follow(iter([_output("abc", (1, 2, 3)), _finished()]), lambda _text: None), LAYOUT)
    assert two is not None
    assert two.kv_bytes == 2 * LAYOUT.bytes_per_block
    assert two.tokens_per_s == 2.0
    assert str(two) == "prompt 31 tokens (8 reused) | answer 3 tokens | TTFT 500 ms | 2 tokens/s | KV 8.0 KiB"


def test_rate_of_a_single_token_is_unknown() -> None:
    stats = AnswerStats(num_prompt_tokens=1, num_cached_tokens=0, num_output_tokens=1, ttft_s=2.0, e2e_s=2.0, kv_bytes=0)
    assert stats.tokens_per_s is None
    assert str(stats) == "prompt 1 tokens (0 reused) | answer 1 tokens | TTFT 2.00 s | KV 0 B"


def test_full_context_is_told_unless_a_limit_was_asked_for() -> None:
    answer = follow(iter([_output("a", (1,)), _finished(FinishReason.LENGTH)]), lambda _text: None)
    assert "context is full (64 tokens)" in str(note_of_full_context(answer, SamplingParams(max_tokens=None), LIMITS))
    assert note_of_full_context(answer, SamplingParams(max_tokens=1), LIMITS) is None
    ended = follow(iter([_finished()]), lambda _text: None)
    assert note_of_full_context(ended, SamplingParams(max_tokens=None), LIMITS) is None


@pytest.mark.parametrize(
    ("bound", "way_out"),
    [
        (ContextBound.MODEL, "no longer context"),
        (ContextBound.MAX_CONTEXT, "--max-context"),
        (ContextBound.KV_MEMORY, "--kv-memory"),
    ],
)
def test_full_context_names_only_the_option_that_makes_room(bound: ContextBound, way_out: str) -> None:
    answer = follow(iter([_output("a", (1,)), _finished(FinishReason.LENGTH)]), lambda _text: None)
    note = str(note_of_full_context(answer, SamplingParams(max_tokens=None), replace(LIMITS, context_bound=bound)))
    assert way_out in note
    assert note.count("--") == (bound is not ContextBound.MODEL)


def _of_completion(index: int, output: RequestOutput) -> RequestOutput:
    return replace(output, outputs=tuple(replace(each, index=index) for each in output.outputs))


def test_several_completions_are_told_apart() -> None:
    last = replace(_finished(), outputs=tuple(replace(_finished().outputs[0], index=index, seed=index) for index in (0, 1)))
    pieces = [(0, "a", 1), (1, "x", 7), (1, "y", 8), (0, "b", 2)]
    stream = [_of_completion(index, _output(text, (token_id,))) for index, text, token_id in pieces]
    first, second = follow_all(iter([*stream, last]), 2)
    assert (first.text, first.token_ids, second.text, second.token_ids) == ("ab", [1, 2], "xy", [7, 8])
    assert [answer.last.outputs[0].seed for answer in (first, second) if answer.last is not None] == [0, 1]
    together = stats_of_all([first, second], LAYOUT)
    assert together is not None
    assert together.num_output_tokens == 4


def test_blocks_of_a_shared_prompt_are_counted_once() -> None:
    def of_64_tokens(text: str) -> RequestOutput:
        return replace(_output(text, (1,)), prompt_token_ids=tuple(range(64)))

    answers = [follow(iter([of_64_tokens("a"), of_64_tokens("b")]), lambda _text: None) for _ in range(3)]
    together = stats_of_all(answers, LAYOUT)
    assert together is not None
    assert together.kv_bytes == (2 + 3) * LAYOUT.bytes_per_block
    assert stats_of_all([Answer()], LAYOUT) is None


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert harmless("a\x1b[2J\tb\n\x9bc\r") == "a\\x1b[2J\tb\n\\x9bc\\r"
    assert harmless("\N{FAMILY} e\N{COMBINING ACUTE ACCENT} \N{NO-BREAK SPACE}") == "\N{FAMILY} e\N{COMBINING ACUTE ACCENT} \xa0"
