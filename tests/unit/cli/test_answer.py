"""Following a stream: text as it comes, Ctrl-C, counting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quire.cli.answer import Answer, AnswerStats, follow, harmless, note_of_full_context, raise_failure, stats_of
from quire.config import KVFormat
from quire.errors import ExecutorError
from quire.kv.layout import KVLayout
from quire.request import CompletionOutput, FinishReason, RequestMetrics, RequestOutput, SamplingParams

LAYOUT = KVLayout(num_layers=1, num_kv_heads=1, head_dim=16, block_size=32, format=KVFormat.FLOAT32)
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
    assert "context is full" in str(note_of_full_context(answer, SamplingParams(max_tokens=None)))
    assert note_of_full_context(answer, SamplingParams(max_tokens=1)) is None
    ended = follow(iter([_finished()]), lambda _text: None)
    assert note_of_full_context(ended, SamplingParams(max_tokens=None)) is None


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert harmless("a\x1b[2J\tb\n\x9bc\r") == "a\\x1b[2J\tb\n\\x9bc\\r"
    assert harmless("\N{FAMILY} e\N{COMBINING ACUTE ACCENT} \N{NO-BREAK SPACE}") == "\N{FAMILY} e\N{COMBINING ACUTE ACCENT} \xa0"
