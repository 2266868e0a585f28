"""Chat templates: messages in, the prompt's text out, whatever the template tries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Unpack

from jinja2 import UndefinedError

from quire.errors import TemplateError
from quire.text.content_form import PROBED_ROLES, Message, as_parts, drops_text, fit_parts
from quire.text.metering import CompiledTemplate, compile_template
from quire.text.plain_values import plain_copy
from quire.text.rendering import PROBE_WORK, Rendering
from quire.text.template_errors import template_error
from quire.text.template_inputs import (
    DEFAULT,
    PlainInputs,
    TemplateInputs,
    choose_template,
    read_inputs,
    require_all_read,
    require_variables_read,
)
from quire.units import KIB, format_bytes

MAX_TEMPLATE_BYTES = 256 * KIB
_REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A model's chat template, or its several named ones. Rendering depends on its arguments only, bounded in work and output.

    `source` is one template or a mapping of names (`default`, `tool_use`, `rag` ...) to templates, of which only those in use
    are compiled. `special_tokens` maps names such as `bos_token` to their text (`Tokenizer.named_tokens`). Templates see what
    transformers gives them: messages, tools, documents, add_generation_prompt, variables, raise_exception, strftime_now.
    """

    __slots__ = ("_compiled", "_drops_text", "_sources", "_special_tokens")

    def __init__(self, source: str | Mapping[str, str], *, special_tokens: Mapping[str, str]) -> None:
        self._sources: Mapping[str, str] = {DEFAULT: source} if isinstance(source, str) else dict(source)
        self._special_tokens = dict(special_tokens)
        self._compiled: dict[str, CompiledTemplate] = {}
        self._drops_text: dict[tuple[str, str], bool] = {}
        if DEFAULT in self._sources:
            self._named(DEFAULT)

    @property
    def literals(self) -> frozenset[str]:
        """The texts that the templates hold and may write, none of a template that cannot be compiled."""
        found: set[str] = set()
        for name in self._sources:
            with suppress(TemplateError):
                found |= self._named(name).literals
        return frozenset(found)

    def check(self, **inputs: Unpack[TemplateInputs]) -> None:
        """Raises TemplateError for inputs that the template chosen for them would ignore."""
        self._choose(read_inputs(inputs))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        now: datetime | None = None,
        **inputs: Unpack[TemplateInputs],
    ) -> str:
        """Returns the prompt's text.

        `messages` and `inputs` hold JSON values. `now` is the time strftime_now formats; without it the function is undefined
        and templates use their fixed date. Raises TemplateError if the template raises, fails, exceeds its work or output
        budget, or would ignore an input, and PromptTooLongError for more text than any prompt may hold.
        """
        read = read_inputs(inputs)
        name = self._choose(read)
        names = self._special_tokens | read.by_name() | {"add_generation_prompt": add_generation_prompt}
        plain: list[Message] = plain_copy(list(messages))
        rendering = Rendering(self._named(name), names, now=now, messages=plain)
        first, *others = _null_forms(plain)
        try:
            return self._write(name, rendering, first)
        except TemplateError as error:
            if not isinstance(error.__cause__, (UndefinedError, TypeError)):
                raise
            return self._write_other(name, rendering, others, error)

    def _write_other(self, name: str, rendering: Rendering, forms: Sequence[Sequence[Message]], error: TemplateError) -> str:
        """Returns the text of the first form that the template can write; raises `error` if there is none."""
        for messages in forms:
            try:
                return self._write(name, rendering, messages)
            except TemplateError:
                continue
        raise error

    def _write(self, name: str, rendering: Rendering, messages: Sequence[Message]) -> str:
        """Renders messages whose nulls are as they should be, each content in the form that the template reads."""
        read = [self._with_shown_content(name, _with_reasoning(message)) for message in messages]
        return rendering.write(fit_parts(read, rendering.write))

    def _with_shown_content(self, name: str, message: Message) -> Message:
        """Returns a message with its text as a part where the template would leave the text out."""
        role, content = message.get("role"), message.get("content")
        if role not in PROBED_ROLES or not isinstance(content, str):
            return message
        if (name, role) not in self._drops_text:
            names = self._special_tokens | {"tools": None, "documents": None, "add_generation_prompt": False}
            probe = Rendering(self._named(name), names, base_work=PROBE_WORK)
            self._drops_text[name, role] = drops_text(role, probe.write)
        return {**message, "content": as_parts(content)} if self._drops_text[name, role] else message

    def _choose(self, inputs: PlainInputs) -> str:
        name = choose_template(inputs, self._sources, self._names_read)
        names_read = self._named(name).names_read
        require_all_read(inputs, name, self._names_read, self._sources)
        require_variables_read(inputs.variables, names_read, self._special_tokens)
        return name

    def _names_read(self, name: str) -> frozenset[str]:
        """Returns the variables that a template reads, none for one that cannot be compiled."""
        try:
            return self._named(name).names_read
        except TemplateError:
            return frozenset()

    def _named(self, name: str) -> CompiledTemplate:
        if name not in self._compiled:
            self._compiled[name] = _compiled(self._sources[name])
        return self._compiled[name]


def _compiled(source: str) -> CompiledTemplate:
    num_bytes = len(source.encode(errors="replace"))
    if num_bytes > MAX_TEMPLATE_BYTES:
        raise TemplateError(
            "the chat template is too large",
            given=format_bytes(num_bytes),
            limit=format_bytes(MAX_TEMPLATE_BYTES),
            next_step="Use the model's own template.",
        )
    try:
        return compile_template(source)
    except Exception as error:
        raise template_error(error, None, source.split("\n")) from error


def _null_forms(messages: Sequence[Message]) -> list[list[Message]]:
    """Returns the messages without their nulls, as transformers passes them, and other forms where a content is null.

    Some templates ask whether the content of a tool call is null, and some read it as a text.
    """
    absent = [{key: value for key, value in message.items() if value is not None} for message in messages]
    if all("content" in message for message in absent):
        return [absent]
    return [absent, *([_with_content(message, content) for message in absent] for content in (None, ""))]


def _with_content(message: Message, content: str | None) -> Message:
    return message if "content" in message else {**message, "content": content}


def _with_reasoning(message: Message) -> Message:
    """Returns a message with its reasoning under each name that templates read it by, as transformers passes it."""
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}
