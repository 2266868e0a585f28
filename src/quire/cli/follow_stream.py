"""Reads an answer's stream: passes its text on as it arrives, keeps its tokens, and computes its statistics at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from unicodedata import category

from quire.errors import failure_of
from quire.kv.layout import KVLayout
from quire.request import FinishReason, RequestOutput, SamplingParams, TokenLogprobs
from quire.sched.limits import ContextBound, RequestLimits
from quire.units import format_bytes, format_rate

_NEXT_STEPS: Mapping[ContextBound, str] = MappingProxyType(
    {
        ContextBound.MODEL: "this model supports no longer context",
        ContextBound.MAX_CONTEXT: "raise --max-context for a longer context",
        ContextBound.KV_MEMORY: "raise --kv-memory for a longer context",
    }
)


class AnswerEnd(Enum):
    """Whether the model ended the answer or Ctrl-C did."""

    COMPLETE = "complete"
    INTERRUPTED = "interrupted"


@dataclass(slots=True)
class Answer:
    """What a stream has yielded. `last` is its newest output: the final one unless Ctrl-C came first, None without any output."""

    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    last: RequestOutput | None = None
    end: AnswerEnd = AnswerEnd.COMPLETE

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def was_interrupted(self) -> bool:
        return self.end is AnswerEnd.INTERRUPTED

    @property
    def finish_reason(self) -> FinishReason:
        """Why the answer ended; an interrupted one was aborted."""
        reason = self.last.outputs[0].finish_reason if self.last is not None and not self.was_interrupted else None
        return reason or FinishReason.ABORT

    def take(self, output: RequestOutput) -> str:
        """Adds the output of one step and returns its text."""
        added = output.outputs[0]
        self.pieces.append(added.text)
        self.token_ids.extend(added.token_ids)
        self.logprobs.extend(added.logprobs or ())
        self.last = output
        return added.text


def follow(stream: Iterator[RequestOutput], write: Callable[[str], None]) -> Answer:
    """Reads a stream to its end or until Ctrl-C, passing each piece of text to `write`."""
    answer = Answer()
    try:
        for output in stream:
            write(answer.take(output))
    except KeyboardInterrupt:
        answer.end = AnswerEnd.INTERRUPTED
    return answer


def follow_all(stream: Iterator[RequestOutput], num_answers: int) -> list[Answer]:
    """Reads a stream of several completions to its end or until Ctrl-C and returns the answer of each."""
    answers = [Answer() for _ in range(num_answers)]
    try:
        for output in stream:
            for completion in output.outputs:
                answers[completion.index].take(replace(output, outputs=(completion,)))
    except KeyboardInterrupt:
        for answer in answers:
            answer.end = AnswerEnd.INTERRUPTED
    return answers


def raise_failure(answer: Answer) -> None:
    """Raises ExecutorError if the engine could not finish the answer."""
    error = None if answer.last is None else answer.last.outputs[0].error
    if error is not None:
        raise failure_of(f"the answer failed: {error}")


def note_of_full_context(answer: Answer, params: SamplingParams, limits: RequestLimits) -> str | None:
    """Returns a note for an answer that ended because the context is full although no limit was set, otherwise None."""
    if answer.finish_reason is not FinishReason.LENGTH or params.max_tokens is not None:
        return None
    return f"the answer ends here because the context is full ({limits.max_tokens} tokens); {_NEXT_STEPS[limits.context_bound]}"


def write_out(text: str) -> None:
    """Writes text to standard output and flushes it. On a terminal, control characters are written as escapes."""
    sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def end_line(text: str) -> None:
    """Ends the line on standard output unless `text` already did."""
    if not text.endswith("\n"):
        write_out("\n")


def harmless(text: str) -> str:
    """Returns the text with every control character except line break and tab written as an escape."""
    return "".join(_escape(character) if category(character) == "Cc" else character for character in text)


def _escape(character: str) -> str:
    return character if character in "\n\t" else character.encode("unicode_escape").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerStats:
    """Statistics of one answer; rates and times are None if they were not measured."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    ttft_s: float | None
    e2e_s: float | None
    kv_bytes: int

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second, the first token excluded."""
        if self.ttft_s is None or self.e2e_s is None or self.num_output_tokens < 2 or self.e2e_s <= self.ttft_s:
            return None
        return (self.num_output_tokens - 1) / (self.e2e_s - self.ttft_s)

    def to_json(self) -> dict[str, float | int | None]:
        """Returns the numbers by their names."""
        return asdict(self) | {"tokens_per_s": self.tokens_per_s}

    def __str__(self) -> str:
        parts = [
            f"prompt {self.num_prompt_tokens} tokens ({self.num_cached_tokens} reused)",
            f"answer {self.num_output_tokens} tokens",
        ]
        if self.ttft_s is not None:
            parts.append(f"TTFT {_format_seconds(self.ttft_s)}")
        if self.tokens_per_s is not None:
            parts.append(format_rate(self.tokens_per_s, "tokens"))
        return " | ".join([*parts, f"KV {format_bytes(self.kv_bytes)}"])


def stats_of(answer: Answer, layout: KVLayout) -> AnswerStats | None:
    """Returns an answer's statistics; None if it ended before its first token. The newest token has no K/V yet."""
    if answer.last is None:
        return None
    num_prompt, num_output = len(answer.last.prompt_token_ids), len(answer.token_ids)
    return AnswerStats(
        num_prompt_tokens=num_prompt,
        num_cached_tokens=answer.last.num_cached_tokens,
        num_output_tokens=num_output,
        ttft_s=answer.last.metrics.ttft_s,
        e2e_s=answer.last.metrics.e2e_s,
        kv_bytes=layout.blocks_for_tokens(num_prompt + num_output - 1) * layout.bytes_per_block,
    )


def stats_of_all(answers: Sequence[Answer], layout: KVLayout) -> AnswerStats | None:
    """Returns the statistics of several answers to one prompt, whose blocks are counted once; None if no answer has a token."""
    each = [stats for answer in answers if (stats := stats_of(answer, layout)) is not None]
    if not each:
        return None
    shared = (len(each) - 1) * (each[0].num_prompt_tokens // layout.block_size) * layout.bytes_per_block
    times = [stats.e2e_s for stats in each if stats.e2e_s is not None]
    return replace(
        each[0],
        num_output_tokens=sum(stats.num_output_tokens for stats in each),
        e2e_s=max(times, default=None),
        kv_bytes=sum(stats.kv_bytes for stats in each) - shared,
    )


def _format_seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
