"""A conversation that is edited at random and asked about through two APIs; every diagnosis is worked out again by hand.

The suite makes a few dozen edits. Many more, in a roomy and in a tight cache:

    PYTHONPATH=src:tests python -m support.edited_chats 500
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2

from support.bundled_variants import with_template
from support.served import Served, served

TEMPLATE = """{%- if enable_thinking is defined and not enable_thinking -%}
{{- "<|system|>Answer at once, without a thought, whatever the question that follows may be about.<|end|>" -}}
{%- endif -%}
{%- for message in messages -%}
{%- set said = message.content if message.content is string else message.content | map(attribute="text") | join -%}
{{- "<|" + message.role + "|>" + said + "<|end|>" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|assistant|>" -}}{%- endif -%}"""
_WORDS = ("sea", "cat", "Paris", "snow", "river", "music", "bread", "stone", "light", "house", "seven", "green", "slow", "above")
_MAX_MESSAGES = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation: its system text, and what user and assistant say in turn."""

    system: str
    said: tuple[str, ...]
    thinks: bool = True
    has_tools: bool = False

    def messages(self) -> list[dict[str, str]]:
        roles = ("user", "assistant")
        return [{"role": roles[idx % 2], "content": text} for idx, text in enumerate(self.said)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A chat that was asked about: what its answer is called, and its tokens."""

    answer_id: str
    chat: Chat
    token_ids: tuple[int, ...]


class Editor:
    """Edits a chat, in the ways in which agents and people do."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def text(self) -> str:
        return " ".join(self.rng.choices(_WORDS, k=self.rng.randint(1, 40)))

    def first(self) -> Chat:
        return Chat(system=self.text(), said=(self.text(),))

    def edited(self, chat: Chat) -> Chat:
        edits = [
            self._said_otherwise,
            self._other_system,
            self._cut,
            self._taken_back,
            self._summed_up,
            self._thinking,
            self._tools,
        ]
        edits += [self._appended] * len(edits)
        edited = self.rng.choice(edits)(chat)
        return edited if len(edited.said) <= _MAX_MESSAGES else replace(edited, said=edited.said[-3:])

    def _appended(self, chat: Chat) -> Chat:
        return replace(chat, said=(*chat.said, self.text(), self.text()))

    def _said_otherwise(self, chat: Chat) -> Chat:
        place = self.rng.randrange(len(chat.said))
        words = chat.said[place].split()
        words[self.rng.randrange(len(words))] = self.rng.choice(_WORDS)
        return replace(chat, said=(*chat.said[:place], " ".join(words), *chat.said[place + 1 :]))

    def _other_system(self, chat: Chat) -> Chat:
        longer = f"{chat.system} {self.rng.choice(_WORDS)}"
        return replace(chat, system=longer if len(longer) < 200 else self.text())

    def _cut(self, chat: Chat) -> Chat:
        return replace(chat, said=chat.said[2 * self.rng.randint(0, min(2, len(chat.said) // 2)) :])

    def _taken_back(self, chat: Chat) -> Chat:
        return replace(chat, said=chat.said[: max(1, len(chat.said) - 2 * self.rng.randint(0, 2))])

    def _summed_up(self, chat: Chat) -> Chat:
        return replace(chat, said=(self.text(), self.text(), *chat.said[-1:]))

    def _thinking(self, chat: Chat) -> Chat:
        return replace(chat, thinks=not chat.thinks)

    def _tools(self, chat: Chat) -> Chat:
        return replace(chat, has_tools=not chat.has_tools)


class EditedChats:
    """Asks a server about one edit after the other, and checks all that it says of its cache."""

    def __init__(self, server: Served, http: httpx2.Client, seed: int) -> None:
        self.verdicts: Counter[str] = Counter()
        self._server, self._http = server, http
        self._editor = Editor(seed)
        self._asked: list[Asked] = []
        self._written: list[tuple[int, ...]] = []  # tokens of every chat
        pool = server.service.engine.core.scheduler.manager.pool
        self._size, self._evicted = pool.block_size, pool.evicted

    def go_on(self) -> None:
        """Makes one edit."""
        rng, known = self._editor.rng, self._asked
        chat = self._editor.edited(rng.choice(known[-3:]).chat) if known else self._editor.first()
        earlier = rng.choice((*known[-8:], None)) if known else None
        if known and not rng.randrange(6):  # back to what may have been evicted meanwhile
            earlier = rng.choice(known)
            chat = earlier.chat
        ask = rng.choice((self._response, self._message))
        asked, told, num_cached, num_missed = ask(chat, "resp_unknown" if earlier is None else earlier.answer_id)
        expected = self._diagnosis(earlier, asked, num_cached)
        is_openai = asked.answer_id.startswith("resp_")
        assert told == (_openai(expected) if is_openai else _anthropic(expected)), f"{expected} after {earlier} for {asked}"
        if num_missed is not None and earlier is not None:
            assert num_cached + num_missed == min(len(earlier.token_ids), len(asked.token_ids) - 1) // self._size * self._size
        self._check_explanation(asked, earlier, num_cached)
        self._asked.append(asked)
        self._written.append(asked.token_ids)
        self.verdicts[f"{'openai' if is_openai else 'anthropic'} {expected[0]}"] += 1

    # -- the two APIs ------------------------------------------------------------------

    def _response(self, chat: Chat, earlier_id: str) -> tuple[Asked, Any, int, int | None]:
        fields = {
            "instructions": chat.system,
            "input": chat.messages(),
            "max_output_tokens": 1,
            "prompt_cache_options": {"comparison_response_id": earlier_id},
            "reasoning": {} if chat.thinks else {"effort": "none"},
            "tools": [{"type": "web_search"}] if chat.has_tools else [],
        }
        answer = self._posted("/v1/responses", fields)
        told, usage = answer["prompt_cache_diagnostics"], answer["usage"]
        asked = self._noted(answer["id"], chat)
        assert usage["input_tokens"] == len(asked.token_ids)
        return asked, told, usage["input_tokens_details"]["cached_tokens"], told.get("cache_missed_tokens")

    def _message(self, chat: Chat, earlier_id: str) -> tuple[Asked, Any, int, int | None]:
        fields = {
            "system": chat.system,
            "messages": chat.messages(),
            "max_tokens": 1,
            "diagnostics": {"previous_message_id": earlier_id},
            "thinking": {"type": "adaptive" if chat.thinks else "disabled"},
        }
        answer = self._posted("/v1/messages", fields)
        told, usage = answer["diagnostics"], answer["usage"]
        asked = self._noted(answer["id"], chat)
        missed = (told or {"cache_miss_reason": {}})["cache_miss_reason"].get("cache_missed_input_tokens")
        return asked, told, usage["cache_read_input_tokens"], missed

    def _posted(self, path: str, fields: dict[str, Any]) -> Any:
        answer = self._http.post(path, json=fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def _noted(self, answer_id: str, chat: Chat) -> Asked:
        messages = [{"role": "system", "content": chat.system}, *chat.messages()]
        kwargs = {} if chat.thinks else {"enable_thinking": False}
        answer = self._posted("/tokenize", {"messages": messages, "chat_template_kwargs": kwargs})
        return Asked(answer_id=answer_id, chat=chat, token_ids=tuple(answer["tokens"]))

    # -- by hand -----------------------------------------------------------------------

    def _diagnosis(self, earlier: Asked | None, later: Asked, num_cached: int) -> tuple[str, int, int]:
        """Returns hit, not found, unavailable or what changed, and the tokens missed and reusable."""
        if earlier is None:
            return "not_found", 0, 0
        room = len(later.token_ids) - 1
        reusable = min(len(earlier.token_ids), room) // self._size * self._size
        if num_cached >= reusable:
            return "hit", 0, 0
        if min(_num_equal(earlier.token_ids, later.token_ids), room) >= reusable:
            return "unavailable", 0, 0
        return _changed(earlier.chat, later.chat), reusable - num_cached, reusable

    def _check_explanation(self, asked: Asked, earlier: Asked | None, num_cached: int) -> None:
        params = {} if earlier is None else {"compared_with": earlier.answer_id}
        found = self._http.get(f"/v1/kv/explain/{asked.answer_id}", params=params).json()
        (prompt,) = found["prompts"]
        assert (prompt["tokens"], prompt["reused_tokens"]) == (len(asked.token_ids), num_cached)
        room = len(asked.token_ids) - 1
        best = max((_num_equal(each, asked.token_ids) for each in self._written), default=0)
        if not len(self._evicted):
            assert num_cached == min(best, room)
            is_told = prompt["reason"] == "diverged"
            assert prompt["diverged_at"] == (best if is_told else None)
            assert is_told == (num_cached < room and self._goes_on(asked, num_cached))
        assert num_cached <= min(best, room)
        if earlier is not None:
            equal = _num_equal(earlier.token_ids, asked.token_ids)
            differs = equal < min(len(earlier.token_ids), len(asked.token_ids))
            assert found["comparison"]["equal_tokens"] == equal
            assert found["comparison"]["first_differing_token"] == (equal if differs else None)

    def _goes_on(self, asked: Asked, num_cached: int) -> bool:
        """Returns whether a token was written behind the part of the prompt that was found."""
        start = asked.token_ids[:num_cached]
        return any(len(each) > num_cached and each[:num_cached] == start for each in self._written)


def _changed(earlier: Chat, later: Chat) -> str:
    if earlier.system != later.system:
        return "system"
    if later.said[: len(earlier.said)] == earlier.said:
        return "thinking"
    first = _num_equal(earlier.said, later.said)
    places = [place for place, text in enumerate(later.said) if text == earlier.said[-1] and place >= first]
    same_role = [place for place in places if (place - len(earlier.said) + 1) % 2 == 0]
    return "cut" if any(place < len(earlier.said) - 1 for place in same_role) else "messages"


def _openai(expected: tuple[str, int, int]) -> dict[str, Any]:
    what, missed, reusable = expected
    others = {"hit": "cache_hit", "not_found": "comparison_response_not_found", "unavailable": "unavailable"}
    if what in others:
        return {"type": others[what]}
    reasons = {"thinking": "reasoning_effort_changed", "cut": "context_compacted"}
    counts = {"cache_missed_tokens": missed, "comparison_reusable_tokens": reusable}
    return {"type": "cache_miss", "reason": reasons.get(what, "input_changed"), **counts}


def _anthropic(expected: tuple[str, int, int]) -> dict[str, Any] | None:
    what, missed, _ = expected
    if what == "hit":
        return None
    others = {"not_found": "previous_message_not_found", "unavailable": "unavailable", "thinking": "unavailable"}
    if what in others:
        return {"cache_miss_reason": {"type": others[what]}}
    kind = "system_changed" if what == "system" else "messages_changed"
    return {"cache_miss_reason": {"type": kind, "cache_missed_input_tokens": missed}}


def _num_equal(left: Sequence[object], right: Sequence[object]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(left), len(right)))


def edit(directory: Path, num_edits: int, kv_memory: str, seed: int) -> Counter[str]:
    """Makes edits on a server of its own and returns how often each verdict was right."""
    model = with_template(directory, TEMPLATE)
    with served(model, options={"kv_memory": kv_memory}) as server, httpx2.Client(base_url=server.url, timeout=60) as http:
        chats = EditedChats(server, http, seed)
        for _ in range(num_edits):
            chats.go_on()
    return chats.verdicts


def main() -> None:
    """Makes as many edits as the command line says, in a roomy and in a tight cache."""
    for kv_memory in ("1GiB", "2MiB"):
        with tempfile.TemporaryDirectory() as directory:
            print(kv_memory, dict(edit(Path(directory), int(sys.argv[1]), kv_memory, seed=1)))  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
