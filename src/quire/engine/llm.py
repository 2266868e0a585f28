"""`LLM`: the engine for a program that waits for its answers. The shape is that of vLLM's offline API."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from quire.config import EngineConfig
from quire.engine.chats import Messages, require_known_inputs, split_conversations, template_of
from quire.engine.core import EngineCore, StepEvent
from quire.engine.group import Submission, last_delta
from quire.engine.interrupt import interrupts_deferred
from quire.engine.loading import build_core, build_executor, open_checkpoint, origin_of
from quire.engine.options import EngineOptions, engine_config
from quire.engine.prompts import (
    GivenContext,
    GivenPrompt,
    Prompt,
    Prompts,
    one_param_each,
    one_priority_each,
    read_params,
    read_priority,
    read_prompt,
    split_prompts,
)
from quire.engine.scores import Score, read_scored_text, score_of
from quire.errors import IntegrityError, RequestError
from quire.kv.ledger import CacheExplanation
from quire.models.spec import ModelSpec
from quire.request import RequestOutput, SamplingParams
from quire.text.chat import ChatTemplate
from quire.text.conversation import Conversation
from quire.text.template_inputs import TemplateInputs
from quire.text.tokenizer import AddSpecial, Tokenizer


class LLM:
    """A model in memory with its KV cache. Not thread-safe; use it as a context manager or call `close()`.

    `model` is a directory, a Hugging Face id, or None for the bundled model; options are those of `EngineOptions`.
    Raises ModelNotFoundError, ModelError, ConfigError or ExecutorUnavailableError. Nothing is printed.
    """

    def __init__(self, model: str | Path | None = None, **options: Unpack[EngineOptions]) -> None:
        checkpoint, config = open_checkpoint(model, engine_config(options))
        self.config: EngineConfig = config
        self.spec: ModelSpec = checkpoint.spec
        self.tokenizer = Tokenizer.from_directory(checkpoint.directory)
        executor = build_executor(checkpoint, config, options.get("on_progress"))
        self._core: EngineCore | None = build_core(executor, self.tokenizer, config, origin_of(checkpoint))
        self._num_requests = 0
        self._streams: dict[str, deque[StepEvent]] = {}
        self._outputs: dict[str, RequestOutput] = {}
        self._is_busy = False
        self._late_aborts: list[str] = []

    # -- asking ----------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: int | Sequence[int] = 0,
    ) -> list[RequestOutput]:
        """Continues every prompt and returns one output a prompt, in their order.

        A prompt is a text, token ids (integers or an array of them), or a dictionary with either "prompt" or
        "prompt_token_ids" and perhaps "cache_salt", which keeps its cached prefix apart. `sampling_params` and `priority`
        (less is served earlier) are one for all or one each. Without `sampling_params` it is `SamplingParams()`: 16 tokens at
        temperature 1, whatever the model's generation_config.json says. Raises RequestError before anything runs if any prompt
        can never be answered. A failure while running ends only its request, with FinishReason.ERROR. Ctrl-C ends all of them.
        """
        return self._run(self._submissions(split_prompts(prompts), sampling_params, priority))

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: int | Sequence[int] = 0,
        **inputs: Unpack[TemplateInputs],
    ) -> list[RequestOutput]:
        """Answers one conversation or many through the model's chat template, otherwise as `generate`.

        A message is {"role": ..., "content": ...}, the content a text or OpenAI's list of text parts, which goes to the
        template as parts where it reads them and joined by spaces elsewhere. `inputs` are those of `TemplateInputs`: `tools`,
        `documents`, `variables` (such as enable_thinking) and the name of a `chat_template` of the model's. Without
        `sampling_params` it is `SamplingParams(max_tokens=None)`: temperature 1, and an answer may fill the context. Raises
        TemplateError where the model has no template, or its template fails or would ignore an input.
        """
        require_known_inputs(inputs)
        template, now = self._chat_template, datetime.now().astimezone()
        rendered = [template.render(conversation, now=now, **inputs) for conversation in split_conversations(messages)]
        encoded = [tuple(self.tokenizer.encode(text, special=AddSpecial.NO)) for text in rendered]
        prompts = [GivenPrompt(text=text, token_ids=ids) for text, ids in zip(rendered, encoded, strict=True)]
        each = SamplingParams(max_tokens=None) if sampling_params is None else sampling_params
        return self._run(self._submissions(prompts, each, priority))

    def conversation(self, **inputs: Unpack[TemplateInputs]) -> Conversation:
        """Returns an empty conversation of many turns whose tokens only grow, so that each turn finds the last in the cache.

        Add messages, pass its `prompt_token_ids()` to `generate` or `stream`, and give the answer's tokens back to it.
        `inputs` are those of `chat`, the same in every turn; raises TemplateError for one that the template would ignore.
        """
        require_known_inputs(inputs)
        self._chat_template.check(**inputs)
        return Conversation(self._chat_template, self.tokenizer, now=datetime.now().astimezone(), inputs=inputs)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, priority: int = 0
    ) -> Iterator[RequestOutput]:
        """Yields what each step adds: the new text and token only; a last one adds nothing and has `finished` set.

        Arguments and defaults are those of `generate`. Checks the request at once, computes while it is iterated. Closing
        the iterator early ends the request, frees its blocks and keeps the computed prefix.
        """
        submission = self._submission(read_prompt(prompt), read_params(sampling_params), read_priority(priority))
        self._open_core.check(submission)
        return self._follow(submission)

    def score(self, prompt: Prompt, *, given: GivenContext | None = None, num_candidates: int = 0) -> Score:
        """Returns the teacher-forced log-probability of every token of a text or of token ids, computed chunk by chunk.

        `given` is context that comes first and is not scored, a text before a text or token ids before token ids: its
        blocks come from the cache where they are, so many continuations of one prompt compute the prompt once. A text
        without it is computed whole, since the cache holds no logits; either way its blocks serve whoever comes next.
        The numbers do not depend on the cache. Two texts are encoded as one, and a token that covers the seam is scored.

        `num_candidates` adds that many of the most likely tokens at each position. Logits exist a slice of rows at a time
        (`MAX_LOGIT_BYTES`). Room for one more token must be left. Raises RequestError, or ExecutorError for logits that
        are not finite.
        """
        scored = read_scored_text(prompt, given, self.tokenizer)
        submission = scored.submission(self._next_request_id(), num_candidates=num_candidates)
        return score_of(self._run([submission])[0], scored.num_given_tokens)

    def explain(self, output: RequestOutput) -> CacheExplanation | None:
        """Returns how much of a request the cache saved and why not more, by its first completion; None when forgotten."""
        request_ids = (output.request_id, f"{output.request_id}/0")
        found = (self._open_core.scheduler.manager.explain(request_id) for request_id in request_ids)
        return next((explanation for explanation in found if explanation is not None), None)

    # -- life ------------------------------------------------------------------------

    @property
    def core(self) -> EngineCore:
        """The engine underneath: scheduler, KV cache manager and executor, to look at."""
        return self._open_core

    def close(self) -> None:
        """Ends everything that runs and lets go of the model's memory; a second call does nothing."""
        if self._core is not None:
            self._abort(self._core.request_ids)
            self._core = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- inside ----------------------------------------------------------------------

    @property
    def _open_core(self) -> EngineCore:
        if self._core is None:
            raise RequestError("this LLM is closed", next_step="Create another one.")
        return self._core

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        return template_of(self.tokenizer)

    def _submissions(self, prompts: Sequence[GivenPrompt], sampling_params: object, priority: object) -> list[Submission]:
        params = one_param_each(len(prompts), sampling_params)
        priorities = one_priority_each(len(prompts), priority)
        return [self._submission(*parts) for parts in zip(prompts, params, priorities, strict=True)]

    def _submission(self, prompt: GivenPrompt, params: SamplingParams, priority: int) -> Submission:
        token_ids = prompt.token_ids
        if token_ids is None:
            token_ids = tuple(self.tokenizer.encode(prompt.text or ""))
        return Submission(
            request_id=self._next_request_id(),
            prompt_token_ids=token_ids,
            sampling=params,
            prompt=prompt.text,
            priority=priority,
            cache_salt=prompt.cache_salt,
        )

    def _next_request_id(self) -> str:
        self._num_requests += 1
        return f"request-{self._num_requests}"

    def _run(self, submissions: Sequence[Submission]) -> list[RequestOutput]:
        pending = {submission.request_id for submission in submissions}
        try:
            with self._undisturbed() as core:
                for submission in submissions:
                    core.submit(submission)
            while pending:
                pending.difference_update(self._step())
            return [self._outputs[submission.request_id] for submission in submissions]
        except BaseException:
            self._abort(pending)
            raise
        finally:
            for submission in submissions:
                self._outputs.pop(submission.request_id, None)

    def _follow(self, submission: Submission) -> Iterator[RequestOutput]:
        request_id = submission.request_id
        events = self._streams.setdefault(request_id, deque())
        try:
            with self._undisturbed() as core:
                group = core.submit(submission)
            while True:
                while not events:
                    self._step()
                event = events.popleft()
                if isinstance(event, RequestOutput):
                    yield last_delta(event)
                    return
                yield group.delta(event)
        finally:
            del self._streams[request_id]
            self._abort([request_id])

    def _step(self) -> list[str]:
        """Runs one step, puts each event where its reader looks, and returns the ids of the requests that ended."""
        ended: list[str] = []
        with self._undisturbed() as core:
            if not core.has_work:
                raise IntegrityError(
                    "an answer is awaited but nothing runs", next_step="Do not end requests behind the LLM's back."
                )
            for event in core.step():
                if event.request_id in self._streams:
                    self._streams[event.request_id].append(event)
                elif isinstance(event, RequestOutput):
                    self._outputs[event.request_id] = event
                    ended.append(event.request_id)
        return ended

    def _abort(self, request_ids: Iterable[str]) -> None:
        if self._is_busy:
            self._late_aborts.extend(request_ids)
        elif self._core is not None:
            with self._undisturbed() as core:
                for request_id in request_ids:
                    core.abort(request_id)

    @contextmanager
    def _undisturbed(self) -> Iterator[EngineCore]:
        """Lets the core finish what it does: Ctrl-C waits, and so does the end of a stream that is garbage-collected now."""
        core = self._open_core
        with interrupts_deferred():
            self._is_busy = True
            try:
                yield core
            finally:
                while self._late_aborts:
                    core.abort(self._late_aborts.pop())
                self._is_busy = False
