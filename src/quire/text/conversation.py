"""A chat of many turns whose tokens only grow, so that the prefix cache always hits.

    turn 1   prompt P1 = encode(render(messages))                      answer A1 as generated
    turn 2   prompt P2 = P1 + A1 + encode(what render now adds)        answer A2
    turn 3   prompt P3 = P2 + A2 + encode(what render now adds)

Old turns are never encoded again: tokens that the model generated stay as they are, even if encoding their text would give other
tokens. This needs a template that only adds text. One that rewrites old turns (drops their reasoning, say) is followed
faithfully: the text is encoded again from the last boundary before the first difference, and `num_rewritten_tokens` counts the
tokens that this replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np

from quire.errors import RequestError
from quire.text.chat import ChatTemplate
from quire.text.detokenizer import IncrementalDetokenizer
from quire.text.marked_text import MarkedText
from quire.text.message_text import ChatEncoder
from quire.text.template_inputs import TemplateInputs
from quire.text.tokenizer import Tokenizer
from quire.values import as_int, is_unicode, shown

_MAX_TOKEN_ID = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Boundary:
    """The first `num_chars` characters of the rendered text are the first `num_tokens` tokens."""

    num_chars: int
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """`token_ids` encode `text`, the part of the rendering, with its marks, that is already encoded."""

    messages: tuple[Mapping[str, str], ...] = ()
    token_ids: tuple[int, ...] = ()
    text: str = ""
    boundaries: tuple[_Boundary, ...] = ()
    num_rewritten: int = 0

    def with_message(self, role: str, content: str) -> _State:
        return replace(self, messages=(*self.messages, {"role": role, "content": content}))

    def with_tokens(self, token_ids: Sequence[int], text: str) -> _State:
        grown = (*self.token_ids, *token_ids)
        boundary = _Boundary(num_chars=len(self.text) + len(text), num_tokens=len(grown))
        return replace(self, token_ids=grown, text=self.text + text, boundaries=(*self.boundaries, boundary))

    def up_to(self, num_chars: int) -> _State:
        """Returns the state cut at its last boundary within the first `num_chars` characters."""
        boundaries = tuple(boundary for boundary in self.boundaries if boundary.num_chars <= num_chars)
        last = boundaries[-1] if boundaries else _Boundary(num_chars=0, num_tokens=0)
        return replace(self, token_ids=self.token_ids[: last.num_tokens], text=self.text[: last.num_chars], boundaries=boundaries)


@dataclass(slots=True)
class Conversation:
    """Messages and their tokens. `now` and `inputs` go to the template in every turn, so that they cannot change old ones."""

    template: ChatTemplate
    tokenizer: Tokenizer
    now: datetime | None = field(default=None, kw_only=True)
    inputs: TemplateInputs = field(default_factory=TemplateInputs, kw_only=True)
    _encoder: ChatEncoder = field(init=False)
    _state: _State = field(default_factory=_State, init=False)
    _before_turns: tuple[_State, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self._encoder = ChatEncoder(self.template, self.tokenizer)

    @property
    def messages(self) -> tuple[Mapping[str, str], ...]:
        return self._state.messages

    @property
    def num_rewritten_tokens(self) -> int:
        """Tokens that the template's rewriting of old turns has replaced so far; 0 as long as the tokens only grew."""
        return self._state.num_rewritten

    def add_system(self, text: str) -> None:
        self._state = self._state.with_message("system", _required_text(text))

    def add_user(self, text: str) -> None:
        content = _required_text(text)
        self._before_turns = (*self._before_turns, self._state)
        self._state = self._state.with_message("user", content)

    def add_assistant(self, token_ids: Sequence[int]) -> str:
        """Adds the answer to `prompt_token_ids()` as it was generated and returns its text.

        Final end-of-answer tokens are left to the template, which writes its own.
        """
        generated = _required_ids(token_ids)
        prompt = self._rendered()
        answer = self._without_eos(generated)
        text = self._text_after(prompt.token_ids, answer)
        state = prompt.with_message("assistant", text)
        shown = self._as_shown(text, prompt.text, self._render(state, add_generation_prompt=False))
        self._state = state.with_tokens(answer, shown)
        return text

    def prompt_token_ids(self) -> tuple[int, ...]:
        """Returns the tokens of all messages and of the start of the next answer; raises TemplateError."""
        self._state = self._rendered()
        return self._state.token_ids

    def undo(self) -> None:
        """Forgets the last user message and everything after it; raises RequestError if there is none."""
        if not self._before_turns:
            raise RequestError("there is no turn to undo", next_step="Ask something first.")
        *earlier, self._state = self._before_turns
        self._before_turns = tuple(earlier)

    def fork(self) -> Conversation:
        """Returns an independent conversation that continues from here."""
        twin = Conversation(self.template, self.tokenizer, now=self.now, inputs=self.inputs)
        twin._state, twin._before_turns = self._state, self._before_turns
        return twin

    def _rendered(self) -> _State:
        old = self._state
        rendered = self._render(old, add_generation_prompt=True)
        text = rendered.marked
        kept = old if text.startswith(old.text) else old.up_to(_num_common(text, old.text))
        added = text[len(kept.text) :]
        new = (
            kept.with_tokens(self._encoder.encode(MarkedText(added, rendered.mark), follows_text=bool(kept.token_ids)), added)
            if added
            else kept
        )
        num_same = len(old.token_ids) if kept is old else _num_common(old.token_ids, new.token_ids)
        return replace(new, num_rewritten=old.num_rewritten + len(old.token_ids) - num_same)

    def _render(self, state: _State, *, add_generation_prompt: bool) -> MarkedText:
        return self._encoder.render(state.messages, add_generation_prompt=add_generation_prompt, now=self.now, **self.inputs)

    def _without_eos(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        end = len(token_ids)
        while end and token_ids[end - 1] in self.tokenizer.eos_token_ids:
            end -= 1
        return tuple(token_ids[:end])

    def _text_after(self, prompt_token_ids: Sequence[int], answer: Sequence[int]) -> str:
        detokenizer = IncrementalDetokenizer(self.tokenizer, skip_special=True, after=prompt_token_ids)
        return "".join([*map(detokenizer.push, answer), detokenizer.finish()])

    def _as_shown(self, text: str, before: str, rendered: MarkedText) -> str:
        """Returns the answer as the template shows it: some templates strip spaces around it, and its tokens keep them."""
        forms = [self._encoder.marked_answer(form, rendered.mark) for form in (text, text.rstrip(), text.lstrip(), text.strip())]
        return next((form for form in forms if rendered.marked.startswith(before + form)), forms[0])


def _required_text(text: object) -> str:
    if not isinstance(text, str) or not is_unicode(text):
        raise RequestError(
            "a message is a text that can be written as UTF-8", given=shown(text), next_step="Pass the content as such a string."
        )
    return text


def _required_ids(token_ids: object) -> tuple[int, ...]:
    """Returns the tokens of an answer as Python integers; raises RequestError for anything else."""
    is_list = isinstance(token_ids, (list, tuple)) or (isinstance(token_ids, np.ndarray) and token_ids.ndim == 1)
    ids = [as_int(token_id) for token_id in token_ids] if is_list else [None]  # type: ignore[attr-defined]
    known = tuple(token_id for token_id in ids if token_id is not None and 0 <= token_id <= _MAX_TOKEN_ID)
    if len(known) != len(ids):
        raise RequestError(
            "an answer is a list of token ids",
            given=shown(token_ids),
            next_step="Pass the token_ids of an output, such as outputs[0].outputs[0].token_ids.",
        )
    return known


def _num_common(first: Sequence[object], second: Sequence[object]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))
