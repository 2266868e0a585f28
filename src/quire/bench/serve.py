"""A server under load, measured by its clients.

open loop     requests arrive as a Poisson process, whatever the server does; a request that waits was late from its arrival on
closed loop   `concurrency` clients, each of which asks again as soon as it has its answer
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from quire.bench.serve_apis import APIS, Api, Ask, Message
from quire.bench.serve_http import ExchangeError, Target, exchange
from quire.bench.serve_report import Goal, ServeReport, report_of
from quire.bench.serve_request import Outcome, measured
from quire.bench.serve_workloads import Conversation, Conversations, Lengths, Words, Workload
from quire.errors import ConfigError, ExecutorError

OnProgress = Callable[[str, int, int], None]
_FEW_WORDS, _MANY_WORDS = 20, 100  # enough for the number of tokens per word, and little enough for a small context


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """When requests come: `rate` conversations per second (open loop), or `concurrency` clients in turn (closed loop).

    Exactly one of the two is set. New ones come for `duration_s` seconds, or until there are `num_requests`.
    """

    rate: float | None = None
    concurrency: int | None = None
    duration_s: float | None = None
    num_requests: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeWork:
    """What is asked, how often, and of which model (None: the first one that the server lists)."""

    arrivals: Arrivals
    workload: Workload = Workload.FIXED
    lengths: Lengths = field(default_factory=Lengths)
    api: str = "chat"
    model: str | None = None
    goal: Goal = field(default_factory=Goal)
    seed: int = 0
    ignores_eos: bool = True


async def measure_serving(target: Target, work: ServeWork, on_progress: OnProgress | None = None) -> ServeReport:
    """Puts a server under load and reports what its clients saw.

    Raises ConfigError where the server does not answer a first request, and ExecutorError where it answers none of all.
    """
    model = work.model or await _first_model(target)
    words = Words(work.seed)
    clients = Clients(target, work, model, on_progress)
    words.tokens_per_word = await clients.tokens_per_word(words)
    await clients.run(Conversations(work.workload, work.lengths, words))
    report = report_of(clients.outcomes, work.goal)
    if not report.num_answered:
        raise ExecutorError("no request was answered", given=dict(report.errors), next_step="See the server's log.")
    return report


class Clients:
    """The clients of one run, and what became of their requests."""

    def __init__(self, target: Target, work: ServeWork, model: str, on_progress: OnProgress | None = None) -> None:
        self.outcomes: list[Outcome] = []
        self._target, self._work, self._model = target, work, model
        self._api: Api = APIS[work.api]
        self._on_progress = on_progress
        self._num_begun = 0
        self._began_s = 0.0

    async def tokens_per_word(self, words: Words) -> float:
        """Returns how many tokens a random word has, by the server's own count; raises ConfigError where it does not answer.

        A server that counts nothing has one token per word.
        """
        counts = []
        for num_words in (_FEW_WORDS, _MANY_WORDS):
            outcome = await self._ask([{"role": "user", "content": words.draw(num_words)}], 1, None)
            if outcome.error is not None:
                raise ConfigError(
                    "the server does not answer",
                    given=f"{self._api.path}: {outcome.error}",
                    next_step="Check --url, --api, --model-name and --api-key-file.",
                )
            counts.append(outcome.counts.num_prompt)
        few, many = counts
        return 1.0 if few is None or many is None else max((many - few) / (_MANY_WORDS - _FEW_WORDS), 0.1)

    async def run(self, conversations: Conversations) -> None:
        """Sends all requests and waits for their ends."""
        self._began_s = time.monotonic()
        arrivals = self._work.arrivals
        async with asyncio.TaskGroup() as group:
            if arrivals.rate is not None:
                await self._arrive(group, conversations, arrivals.rate)
            for _ in range(arrivals.concurrency or 0):
                group.create_task(self._client(conversations))

    # -- inside ----------------------------------------------------------------------

    async def _arrive(self, group: asyncio.TaskGroup, conversations: Conversations, rate: float) -> None:
        draws = random.Random(self._work.seed)  # noqa: S311 - times, not keys
        at_s = self._began_s
        while self._takes_more(at_s := at_s + draws.expovariate(rate)):
            conversation = conversations.next()
            self._num_begun += len(conversation)
            await asyncio.sleep(at_s - time.monotonic())
            group.create_task(self._hold(conversation, at_s))

    async def _client(self, conversations: Conversations) -> None:
        while self._takes_more(time.monotonic()):
            conversation = conversations.next()
            self._num_begun += len(conversation)
            await self._hold(conversation, None)

    def _takes_more(self, now_s: float) -> bool:
        limits = self._work.arrivals
        if limits.num_requests is not None and self._num_begun >= limits.num_requests:
            return False
        return limits.duration_s is None or now_s - self._began_s < limits.duration_s

    async def _hold(self, conversation: Conversation, intended_s: float | None) -> None:
        """Sends the requests of a conversation one after the other; an error ends it."""
        for messages in conversation.turns():
            outcome = await self._ask(messages, self._work.lengths.num_output, intended_s)
            self.outcomes.append(outcome)
            self._show_progress()
            if outcome.error is not None:
                return
            conversation.note_answer(outcome.text)
            intended_s = None

    async def _ask(self, messages: Sequence[Message], max_tokens: int, intended_s: float | None) -> Outcome:
        ask = Ask(model=self._model, messages=messages, max_tokens=max_tokens, ignores_eos=self._work.ignores_eos)
        return await measured(self._target, self._api, ask, intended_s)

    def _show_progress(self) -> None:
        if self._on_progress is None:
            return
        limits = self._work.arrivals
        if limits.num_requests is not None:
            self._on_progress("Requests answered", len(self.outcomes), max(limits.num_requests, len(self.outcomes)))
        elif limits.duration_s is not None:
            seconds = int(limits.duration_s)
            self._on_progress("Seconds of load", min(int(time.monotonic() - self._began_s), seconds), seconds)


async def _first_model(target: Target) -> str:
    """Returns the first name that `/v1/models` lists; raises ConfigError where it lists none."""
    try:
        async with exchange(target, "/v1/models") as answer:
            body = await answer.rest()
            name: str = json.loads(body)["data"][0]["id"]
            return name
    except (ExchangeError, ValueError, LookupError, TypeError) as error:
        reason = error.kind if isinstance(error, ExchangeError) else f"HTTP {answer.status} without a list"
        raise ConfigError(
            "the server does not list its models",
            given=reason,
            next_step="Check --url and --api-key-file, or name the model with --model-name.",
        ) from error
