"""Answers of `/v1/completions`. Where the prompt is echoed, it is the beginning of the choice's text, with its own logprobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quire.engine.completion import RequestGroup
from quire.engine.step_events import PromptProgress
from quire.request import CompletionOutput, RequestOutput, TokenLogprobs
from quire.server.errors import ApiError
from quire.server.generation import Delta, Generation, usage_of, whole_delta
from quire.server.logprobs import CompletionEntries, prompt_entries
from quire.server.render import DONE, AnswerSource, Envelope, OpenAIStream, event, failure_events, to_json, usage_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionForm:
    """What a request wants to read. `num_top` None: no log-probabilities."""

    num_top: int | None
    has_echo: bool
    has_usage: bool
    has_token_ids: bool


class CompletionRenderer(OpenAIStream):
    """Writes one answer of the completions API."""

    def __init__(self, envelope: Envelope, generation: Generation, form: CompletionForm, source: AnswerSource) -> None:
        self._envelope, self._generation, self._form, self._source = envelope, generation, form, source
        self._usage: dict[str, Any] = {"usage": None} if form.has_usage else {}
        num_choices = len(generation.groups) * generation.num_choices
        self._entries = [CompletionEntries(form.num_top or 0) for _ in range(num_choices)]
        self._held: list[list[Delta]] = [[] for _ in generation.groups]
        self._has_begun = [not form.has_echo for _ in generation.groups]

    # -- as a stream -----------------------------------------------------------------

    def prompt(self, progress: PromptProgress) -> bytes:
        """Returns how far one of the prompts is, as a chunk of its first choice."""
        idx = next(idx for idx, group in enumerate(self._generation.groups) if group.request_id == progress.request_id)
        choice = self._choice(idx * self._generation.num_choices, "", None, None)
        return self._chunk(choice, self.progress_fields(progress))

    def opening(self) -> bytes:
        """Returns nothing: this API begins with text."""
        return b""

    def delta(self, delta: Delta) -> bytes:
        """Returns the chunks of a delta; before the first one of a prompt, its echo as soon as all of it is scored."""
        idx = delta.group_idx
        if self._has_begun[idx]:
            return self._chunks(delta)
        self._held[idx].append(delta)
        if not self._is_scored(idx):
            return b""
        self._has_begun[idx] = True
        return self._echo_chunks(idx) + b"".join(map(self._chunks, self._held[idx]))

    def closing(self, outputs: Sequence[RequestOutput]) -> bytes:
        """Returns the usage if it was asked for, and the end of the stream."""
        if not self._form.has_usage:
            return DONE
        usage = usage_of(outputs, self._generation, self._source.block_size)
        return event({**self._envelope.fields(self._envelope.kind), "choices": [], "usage": usage_fields(usage)}) + DONE

    def failure(self, error: ApiError) -> bytes:
        """Returns the end of a stream by an error."""
        return failure_events(error)

    # -- whole -----------------------------------------------------------------------

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes:
        """Returns the answer as one object."""
        completions = [(idx, completion) for idx, output in enumerate(outputs) for completion in output.outputs]
        choices = [choice for idx, completion in completions for choice in self._choices(idx, completion, outputs[idx])]
        usage = usage_of(outputs, self._generation, self._source.block_size)
        return to_json({**self._envelope.fields(self._envelope.kind), "choices": choices, "usage": usage_fields(usage)})

    def _choices(self, group_idx: int, completion: CompletionOutput, output: RequestOutput) -> list[dict[str, Any]]:
        delta = whole_delta(group_idx, completion, self._generation)
        group = self._generation.groups[group_idx]
        echo = self._echo_text(group) if self._form.has_echo else ""
        extra: dict[str, Any] = {}
        if output.prompt_logprobs is not None and not self._form.has_echo:
            extra["prompt_logprobs"] = prompt_entries(output.prompt_logprobs)
        if self._form.has_token_ids:
            extra |= {"prompt_token_ids": output.prompt_token_ids, "token_ids": delta.token_ids}
        return [
            self._choice(choice, echo + delta.text, self._joined_logprobs(choice, delta, output), delta.finish_reason) | extra
            for choice in self._generation.choices_of(group_idx, completion.index)
        ]

    def _joined_logprobs(self, choice: int, delta: Delta, output: RequestOutput) -> dict[str, Any] | None:
        if not self._form.has_echo:
            return self._logprobs(choice, delta.token_ids, delta.logprobs or ())
        token_ids = (*output.prompt_token_ids, *delta.token_ids)
        return self._logprobs(choice, token_ids, (*(output.prompt_logprobs or ()), *(delta.logprobs or ())))

    # -- inside ----------------------------------------------------------------------

    def _chunks(self, delta: Delta) -> bytes:
        if not (delta.text or delta.token_ids or delta.finish_reason):
            return b""
        facts = {"token_ids": delta.token_ids} if self._form.has_token_ids else {}
        choices = self._generation.choices_of(delta.group_idx, delta.completion_idx)
        return b"".join(
            self._chunk(
                self._choice(
                    choice, delta.text, self._logprobs(choice, delta.token_ids, delta.logprobs or ()), delta.finish_reason
                )
                | facts
            )
            for choice in choices
        )

    def _echo_chunks(self, group_idx: int) -> bytes:
        group = self._generation.groups[group_idx]
        prompt = group.submission.prompt
        first = group_idx * self._generation.num_choices
        return b"".join(
            self._chunk(
                self._choice(choice, self._echo_text(group), self._logprobs(choice, prompt.token_ids, group.scores or ()), None)
            )
            for choice in range(first, first + self._generation.num_choices)
        )

    def _is_scored(self, group_idx: int) -> bool:
        group = self._generation.groups[group_idx]
        return group.scores is None or len(group.scores) == len(group.submission.prompt.token_ids)

    def _echo_text(self, group: RequestGroup) -> str:
        prompt = group.submission.prompt
        return self._source.tokenizer.decode(prompt.token_ids, skip_special=False) if prompt.text is None else prompt.text

    def _logprobs(self, choice: int, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None]) -> dict[str, Any] | None:
        if self._form.num_top is None:
            return None
        firsts = {
            token_id: self._source.tokenizer.token_text(token_id)
            for token_id, entry in zip(token_ids, logprobs, strict=True)
            if entry is None
        }
        return self._entries[choice].take(token_ids, logprobs, firsts)

    def _choice(self, choice: int, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None) -> dict[str, Any]:
        return {"index": choice, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _chunk(self, choice: dict[str, Any], facts: dict[str, Any] | None = None) -> bytes:
        return event({**self._envelope.fields(self._envelope.kind), "choices": [choice], **self._usage, **(facts or {})})
