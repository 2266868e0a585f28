"""One streamed request, measured from outside: when it was meant to begin, and when each piece of its answer came."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from quire.bench.serve_apis import Api, Ask, Counts, EventLines, News, error_kind
from quire.bench.serve_http import Exchange, ExchangeError, Target, exchange

TIMEOUT_S = 600.0
"""What takes longer counts as an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a request. Times are seconds of one clock; `arrivals_s` are those of pieces with text.

    `intended_s` is when it was to be sent: a server that is slow makes no request late by delaying an earlier one.
    """

    intended_s: float
    sent_s: float
    ended_s: float
    arrivals_s: tuple[float, ...] = ()
    counts: Counts = field(default_factory=Counts)
    text: str = ""
    error: str | None = None

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first text."""
        return self.arrivals_s[0] - self.intended_s if self.arrivals_s else None

    @property
    def gaps_s(self) -> Sequence[float]:
        """Seconds between one piece of text and the next."""
        return [later - earlier for earlier, later in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)]

    @property
    def tpot_s(self) -> float | None:
        """Seconds per further token, None for an answer of one token."""
        num_further = (self.counts.num_output or len(self.arrivals_s)) - 1
        return (self.arrivals_s[-1] - self.arrivals_s[0]) / num_further if self.arrivals_s and num_further > 0 else None

    @property
    def e2e_s(self) -> float:
        """Seconds to the end of the answer."""
        return self.ended_s - self.intended_s


@dataclass(slots=True, kw_only=True)
class _Heard:
    """What a stream has said so far."""

    arrivals_s: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    is_ended: bool = False

    def take(self, news: News, now_s: float) -> None:
        if news.error is not None:
            raise ExchangeError(f"in the stream: {news.error}")
        if news.text:
            if not self.arrivals_s or now_s > self.arrivals_s[-1]:  # several events of one piece came at one time
                self.arrivals_s.append(now_s)
            self.texts.append(news.text)
        if news.counts is not None:
            self.counts = _joined(self.counts, news.counts)
        self.is_ended = self.is_ended or news.is_end


async def measured(target: Target, api: Api, ask: Ask, intended_s: float | None = None) -> Outcome:
    """Sends a request and returns what became of it, errors too. `intended_s` is a time of `time.monotonic`, None for now."""
    sent_s = time.monotonic()
    heard = _Heard()
    error: str | None = None
    try:
        async with asyncio.timeout(TIMEOUT_S), exchange(target, api.path, json.dumps(api.fields(ask)).encode()) as answer:
            await _listen(answer, api, heard)
    except TimeoutError:
        error = "timeout"
    except ExchangeError as failure:
        error = failure.kind
    return Outcome(
        intended_s=sent_s if intended_s is None else intended_s,
        sent_s=sent_s,
        ended_s=time.monotonic(),
        arrivals_s=tuple(heard.arrivals_s),
        counts=heard.counts,
        text="".join(heard.texts),
        error=error,
    )


async def _listen(answer: Exchange, api: Api, heard: _Heard) -> None:
    if answer.status != 200:
        raise ExchangeError(error_kind(answer.status, await answer.rest()))
    lines = EventLines()
    while piece := await answer.piece():
        now_s = time.monotonic()
        for data in lines.feed(piece):
            heard.take(_news(api, data), now_s)
    if not heard.is_ended:
        raise ExchangeError("a stream without its end")


def _news(api: Api, data: str) -> News:
    try:
        return api.news(data)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ExchangeError("an event that is not of this API") from error


def _joined(known: Counts, new: Counts) -> Counts:
    return Counts(
        num_prompt=known.num_prompt if new.num_prompt is None else new.num_prompt,
        num_cached=known.num_cached if new.num_cached is None else new.num_cached,
        num_output=known.num_output if new.num_output is None else new.num_output,
    )
