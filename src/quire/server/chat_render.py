"""Answers of `/v1/chat/completions`.

data: {... "delta":{"content":""} ... "prompt_progress":{...}} if asked for, after each step on the prompt
data: {... "delta":{"role":"assistant","content":""} ...}     one per choice, 0 first
data: {... "delta":{"content":"Par"} ...}                     content is there in every delta
data: {... "delta":{},"finish_reason":"stop" ...}             once per choice
data: {... "choices":[],"usage":{...}}                        if asked for
data: [DONE]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from quire.engine.step_events import PromptProgress
from quire.request import CompletionOutput, RequestOutput
from quire.server.errors import ApiError
from quire.server.generation import Delta, Generation, usage_of, whole_delta
from quire.server.logprobs import chat_entries, prompt_entries
from quire.server.render import (
    DONE,
    AnswerSource,
    Envelope,
    OpenAIStream,
    event,
    failure_events,
    json_text,
    to_json,
    usage_fields,
)

_CHUNK = "chat.completion.chunk"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatForm:
    """What a request wants to read besides text. `num_top` None: no log-probabilities."""

    num_top: int | None
    has_usage: bool
    has_token_ids: bool


class ChatRenderer(OpenAIStream):
    """Writes one answer of the chat API."""

    def __init__(self, envelope: Envelope, generation: Generation, form: ChatForm, source: AnswerSource) -> None:
        self._envelope, self._generation, self._form, self._source = envelope, generation, form, source
        self._usage: dict[str, Any] = {"usage": None} if form.has_usage else {}
        self._is_plain = form.num_top is None and not form.has_token_ids

    # -- as a stream -----------------------------------------------------------------

    def prompt(self, progress: PromptProgress) -> bytes:
        """Returns how far the prompt is."""
        return event({**self._chunk_fields(0, {"content": ""}), **self.progress_fields(progress)})

    def opening(self) -> bytes:
        """Returns the role of every choice."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(choice, delta) for choice in range(len(self._prebuilt[0])))

    def delta(self, delta: Delta) -> bytes:
        """Returns the chunks of a delta, and of the end if it is the last one."""
        choices = self._generation.choices_of(delta.group_idx, delta.completion_idx)
        if len(choices) == 1:
            return self._content(choices[0], delta) + self._finish(choices[0], delta)
        return b"".join(self._content(choice, delta) + self._finish(choice, delta) for choice in choices)

    def closing(self, outputs: Sequence[RequestOutput]) -> bytes:
        """Returns the usage if it was asked for, and the end of the stream."""
        if not self._form.has_usage:
            return DONE
        usage = usage_of(outputs, self._generation, self._source.block_size)
        return event({**self._envelope.fields(_CHUNK), "choices": [], "usage": usage_fields(usage)}) + DONE

    def failure(self, error: ApiError) -> bytes:
        """Returns the end of a stream by an error."""
        return failure_events(error)

    # -- whole -----------------------------------------------------------------------

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes:
        """Returns the answer as one object."""
        completions = [(idx, completion) for idx, output in enumerate(outputs) for completion in output.outputs]
        choices = [choice for idx, completion in completions for choice in self._choices(idx, completion)]
        usage = usage_of(outputs, self._generation, self._source.block_size)
        answer = {**self._envelope.fields(self._envelope.kind), "choices": choices, "usage": usage_fields(usage)}
        answer["service_tier"] = "default"
        if outputs[0].prompt_logprobs is not None:
            answer["prompt_logprobs"] = prompt_entries(outputs[0].prompt_logprobs)
        if self._form.has_token_ids:
            answer["prompt_token_ids"] = outputs[0].prompt_token_ids
        return to_json(answer)

    def _choices(self, group_idx: int, completion: CompletionOutput) -> list[dict[str, Any]]:
        delta = whole_delta(group_idx, completion, self._generation)
        message: dict[str, Any] = {"role": "assistant", "content": delta.text, "refusal": None, "annotations": []}
        return [
            {"index": choice, "message": message, **self._facts(delta), "finish_reason": delta.finish_reason}
            for choice in self._generation.choices_of(group_idx, completion.index)
        ]

    # -- inside ----------------------------------------------------------------------

    def _content(self, choice: int, delta: Delta) -> bytes:
        if self._is_plain:
            prefixes, suffix = self._prebuilt
            return prefixes[choice] + json_text(delta.text) + suffix if delta.text else b""
        return self._chunk(choice, {"content": delta.text}, self._facts(delta)) if delta.text or delta.token_ids else b""

    def _finish(self, choice: int, delta: Delta) -> bytes:
        return b"" if delta.finish_reason is None else self._chunk(choice, {}, {"finish_reason": delta.finish_reason})

    def _facts(self, delta: Delta) -> dict[str, Any]:
        """Returns what a choice says about its tokens."""
        facts: dict[str, Any] = {"logprobs": None}
        if self._form.num_top is not None:
            entries = chat_entries(delta.token_ids, delta.logprobs or (), self._form.num_top, self._source.tokenizer)
            facts["logprobs"] = {"content": entries, "refusal": None}
        if self._form.has_token_ids:
            facts["token_ids"] = delta.token_ids
        return facts

    def _chunk(self, choice: int, delta: dict[str, Any], facts: dict[str, Any] | None = None) -> bytes:
        return event(self._chunk_fields(choice, delta, facts))

    def _chunk_fields(self, choice: int, delta: dict[str, Any], facts: dict[str, Any] | None = None) -> dict[str, Any]:
        body = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None, **(facts or {})}
        return {**self._envelope.fields(_CHUNK), "choices": [body], **self._usage}

    @cached_property
    def _prebuilt(self) -> tuple[list[bytes], bytes]:
        """Returns what stands before the text of each choice's chunks, and what stands behind it."""
        num_choices = len(self._generation.groups) * self._generation.num_choices
        halves = [self._chunk(choice, {"content": ""}).split(b'"content":""') for choice in range(num_choices)]
        return [before + b'"content":' for before, _ in halves], halves[0][1]
