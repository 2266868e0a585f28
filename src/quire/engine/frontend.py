"""From what users write (texts, token ids, messages) to submissions with ids of their own, in the caller's thread."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from itertools import count
from typing import Any

from quire.engine.chats import Messages, messages_of, require_known_inputs, split_conversations, template_of
from quire.engine.prompts import (
    ParsedPrompt,
    Prompt,
    Prompts,
    ScoreContext,
    Submission,
    one_param_each,
    one_priority_each,
    read_num_candidates,
    read_params,
    read_priority,
    read_prompt,
    split_prompts,
)
from quire.engine.scores import read_scored_prompt, scoring
from quire.errors import TemplateError
from quire.request import SamplingParams
from quire.text.chat import ChatTemplate
from quire.text.conversation import Conversation
from quire.text.marked_text import MarkedText
from quire.text.message_text import ChatEncoder
from quire.text.template_inputs import TemplateInputs
from quire.text.tokenizer import Tokenizer

SamplingParamsOfAll = SamplingParams | Sequence[SamplingParams] | None
PriorityOfAll = int | Sequence[int]

_MAX_DIGITS = 18
"""Of a request's number."""

_LISTS = ("tools", "documents")
"""Inputs of a template that are lists of dictionaries; others are variables."""


class Frontend:
    """Reads, renders and tokenizes for one engine. Knows nothing of requests in progress, so threads may share it.

    Raises RequestError where a prompt has another form, and TemplateError as `LLM.chat` says.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._request_numbers = count(1)
        self._num_issued = 0

    def prompt(self, prompt: Prompt, params: SamplingParams | None, priority: int) -> Submission:
        """Returns the submission of one prompt."""
        return self.submission(read_prompt(prompt, self.tokenizer), read_params(params), priority=read_priority(priority))

    def prompts(self, prompts: Prompts, params: SamplingParamsOfAll, priority: PriorityOfAll) -> list[Submission]:
        """Returns the submissions of one prompt or many, in their order."""
        return self._submissions(split_prompts(prompts, self.tokenizer), params, priority)

    def chats(
        self,
        messages: Messages | Sequence[Messages],
        params: SamplingParamsOfAll,
        priority: PriorityOfAll,
        inputs: TemplateInputs,
    ) -> list[Submission]:
        """Returns the submissions of one conversation or many, rendered by the model's template."""
        require_known_inputs(inputs)
        now = datetime.now().astimezone()
        prompts = [self._rendered(conversation, now, inputs) for conversation in split_conversations(messages)]
        return self._submissions(prompts, SamplingParams(max_tokens=None) if params is None else params, priority)

    def chat_prompt(self, messages: Messages, inputs: TemplateInputs, *, add_generation_prompt: bool = True) -> ParsedPrompt:
        """Returns one conversation as a prompt, rendered by the model's template."""
        return self.encoded(self.chat_text(messages, inputs, add_generation_prompt=add_generation_prompt))

    def chat_text(self, messages: Messages, inputs: TemplateInputs, *, add_generation_prompt: bool = True) -> MarkedText:
        """Returns one conversation as the model's template writes it, which `encoded` makes a prompt."""
        require_known_inputs(inputs)
        now = datetime.now().astimezone()
        return self._chat_encoder.render(messages_of(messages), add_generation_prompt=add_generation_prompt, now=now, **inputs)

    def unfinished_chat_text(self, messages: Messages, inputs: TemplateInputs) -> MarkedText:
        """Returns the same up to the end of the last message's text, which the output continues."""
        require_known_inputs(inputs)
        return self._chat_encoder.render_unfinished(messages_of(messages), now=datetime.now().astimezone(), **inputs)

    def encoded(self, chat: MarkedText) -> ParsedPrompt:
        """Returns a chat that was rendered as a prompt."""
        return ParsedPrompt(text=chat.text, token_ids=tuple(self._chat_encoder.encode(chat)))

    def template_reads(self, variable: str) -> bool:
        """Returns whether the model's chat template reads tools, documents or a variable, so that giving it one has an effect."""
        inputs: dict[str, Any] = {variable: [{}]} if variable in _LISTS else {"variables": {variable: None}}
        try:
            self._chat_template.check(**inputs)
        except TemplateError:
            return False
        return True

    def score(self, prompt: Prompt, context: ScoreContext | None, num_candidates: int) -> Submission:
        """Returns the submission that scores a prompt after its context."""
        wanted = read_num_candidates(num_candidates)
        scored = read_scored_prompt(prompt, context, self.tokenizer)
        return scoring(scored, self._next_request_id(), num_candidates=wanted)

    def conversation(self, inputs: TemplateInputs) -> Conversation:
        """Returns an empty conversation; raises TemplateError for an input that the template would ignore."""
        require_known_inputs(inputs)
        self._chat_template.check(**inputs)
        return Conversation(self._chat_template, self.tokenizer, now=datetime.now().astimezone(), inputs=inputs)

    @cached_property
    def _chat_template(self) -> ChatTemplate:
        return template_of(self.tokenizer)

    @cached_property
    def _chat_encoder(self) -> ChatEncoder:
        return ChatEncoder(self._chat_template, self.tokenizer)

    def submission(self, prompt: ParsedPrompt, params: SamplingParams, *, priority: int = 0, tenant: str = "") -> Submission:
        """Returns the submission of a prompt that is tokenized already; prompts of different tenants share no cache."""
        request_id = self._next_request_id()
        return Submission(request_id=request_id, prompt=prompt, sampling=params, priority=priority, tenant=tenant)

    def has_issued(self, request_id: str) -> bool:
        """Whether this is the id of a submission, or of one of its completions, that was made here."""
        name, _, number = request_id.partition("/")[0].rpartition("-")
        is_number = number.isascii() and number.isdecimal() and len(number) <= _MAX_DIGITS and number[0] != "0"
        return name == "request" and is_number and int(number) <= self._num_issued

    def _rendered(self, conversation: Messages, now: datetime, inputs: TemplateInputs) -> ParsedPrompt:
        return self.encoded(self._chat_encoder.render(conversation, now=now, **inputs))

    def _submissions(self, prompts: Sequence[ParsedPrompt], params: object, priority: object) -> list[Submission]:
        each_params = one_param_each(len(prompts), params)
        priorities = one_priority_each(len(prompts), priority)
        parts = zip(prompts, each_params, priorities, strict=True)
        return [self.submission(prompt, each, priority=priority) for prompt, each, priority in parts]

    def _next_request_id(self) -> str:
        number = next(self._request_numbers)
        self._num_issued = max(self._num_issued, number)
        return f"request-{number}"
