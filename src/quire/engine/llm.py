"""`LLM`: the engine for a program that waits for its answers. The shape is that of vLLM's offline API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from quire.config import EngineConfig
from quire.engine.chats import Messages, require_known_inputs, split_conversations, template_of
from quire.engine.core import EngineCore
from quire.engine.group import Submission
from quire.engine.loading import build_core, build_executor, open_checkpoint, open_tokenizer, origin_of
from quire.engine.options import EngineOptions, engine_config
from quire.engine.progress import AnswerProgress
from quire.engine.prompts import (
    GivenContext,
    GivenPrompt,
    Prompt,
    Prompts,
    one_param_each,
    one_priority_each,
    read_num_candidates,
    read_output,
    read_params,
    read_priority,
    read_prompt,
    read_switch,
    split_prompts,
)
from quire.engine.scores import Score, read_scored_text, score_of
from quire.engine.shared_core import SharedCore
from quire.engine.uncopyable import Uncopyable
from quire.kv.ledger import CacheExplanation
from quire.models.spec import ModelSpec
from quire.request import RequestOutput, SamplingParams
from quire.text.chat import ChatTemplate
from quire.text.conversation import Conversation
from quire.text.message_text import ChatEncoder
from quire.text.template_inputs import TemplateInputs


class LLM(Uncopyable):
    """A model in memory with its KV cache. Use it as a context manager or call `close()`.

    Threads may share it: their calls take turns step by step, and what they ask is computed together. A conversation, or one
    stream, belongs to one thread at a time.

    `model` is a directory, a Hugging Face id, or None for the bundled model; options are those of `EngineOptions`.
    Raises ModelNotFoundError, ModelError, ConfigError or ExecutorUnavailableError. Nothing is printed.
    """

    def __init__(self, model: str | Path | None = None, **options: Unpack[EngineOptions]) -> None:
        checkpoint, config = open_checkpoint(model, engine_config(options))
        self.config: EngineConfig = config
        self.spec: ModelSpec = checkpoint.spec
        self.tokenizer = open_tokenizer(checkpoint.directory, checkpoint.spec)
        executor = build_executor(checkpoint, config, options.get("on_progress"))
        self._shared = SharedCore(build_core(executor, self.tokenizer, config, origin_of(checkpoint)))
        self._request_numbers = count(1)

    # -- asking ----------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: int | Sequence[int] = 0,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Continues every prompt and returns one output a prompt, in their order.

        Special tokens that a text writes out, such as <|im_end|>, become tokens: what users send belongs into `chat`.

        A prompt is a text, token ids (integers or an array of them), or a dictionary with either "prompt" or
        "prompt_token_ids" and perhaps "cache_salt", which keeps its cached prefix apart. `sampling_params` and `priority`
        (less is served earlier) are one for all or one each. Without `sampling_params` it is `SamplingParams()`: 16 tokens at
        temperature 1, whatever the model's generation_config.json says. Raises RequestError before anything runs if any prompt
        can never be answered. A failure while running ends only its request, with FinishReason.ERROR. Ctrl-C ends all of them.
        `use_tqdm` draws a progress bar on standard error meanwhile, or one line at the end where that is no terminal.
        """
        is_watched = read_switch("use_tqdm", use_tqdm)
        return self._answers(self._submissions(split_prompts(prompts), sampling_params, priority), is_watched)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: int | Sequence[int] = 0,
        use_tqdm: bool = False,
        **inputs: Unpack[TemplateInputs],
    ) -> list[RequestOutput]:
        """Answers one conversation or many through the model's chat template, otherwise as `generate`.

        A message is {"role": ..., "content": ...}, the content a text or OpenAI's list of text parts, which goes to the
        template as parts where it reads them and joined by spaces elsewhere. The text of special tokens in a message stays
        text, and forges no turn. `inputs` are those of `TemplateInputs`: `tools`, `documents`, `variables` (such as
        enable_thinking) and the name of a `chat_template` of the model's. Without `sampling_params` it is
        `SamplingParams(max_tokens=None)`: temperature 1, and an answer may fill the context. Raises TemplateError where the
        model has no template, or its template fails or would ignore an input.
        """
        is_watched = read_switch("use_tqdm", use_tqdm)
        require_known_inputs(inputs)
        encoder, now = self._chat_encoder, datetime.now().astimezone()
        rendered = [encoder.render(conversation, now=now, **inputs) for conversation in split_conversations(messages)]
        prompts = [GivenPrompt(text=chat.text, token_ids=tuple(encoder.encode(chat))) for chat in rendered]
        each = SamplingParams(max_tokens=None) if sampling_params is None else sampling_params
        return self._answers(self._submissions(prompts, each, priority), is_watched)

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
        self._shared.core.check(submission)
        return self._shared.follow(submission)

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
        wanted = read_num_candidates(num_candidates)
        scored = read_scored_text(prompt, given, self.tokenizer)
        submission = scored.submission(self._next_request_id(), num_candidates=wanted)
        return score_of(self._shared.run([submission])[0], scored.num_given_tokens)

    def explain(self, output: RequestOutput) -> CacheExplanation | None:
        """Returns how much of a request the cache saved and why not more, by its first completion; None when forgotten."""
        request_id = read_output(output).request_id
        request_ids = (request_id, f"{request_id}/0")
        found = (self._shared.core.scheduler.manager.explain(request_id) for request_id in request_ids)
        return next((explanation for explanation in found if explanation is not None), None)

    # -- life ------------------------------------------------------------------------

    @property
    def core(self) -> EngineCore:
        """The engine underneath: scheduler, KV cache manager and executor, to look at."""
        return self._shared.core

    def close(self) -> None:
        """Ends everything that runs, in other threads too, and lets go of the model's memory; a second call does nothing."""
        self._shared.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- inside ----------------------------------------------------------------------

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        return template_of(self.tokenizer)

    @cached_property
    def _chat_encoder(self) -> ChatEncoder:
        return ChatEncoder(self._chat_template, self.tokenizer)

    def _answers(self, submissions: Sequence[Submission], is_watched: bool) -> list[RequestOutput]:
        with AnswerProgress(len(submissions), is_shown=is_watched) as progress:
            return self._shared.run(submissions, progress.note)

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
        return f"request-{next(self._request_numbers)}"
