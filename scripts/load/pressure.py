"""More than a server can do: a flood from one key, overload, and clients that are slow on purpose."""

from __future__ import annotations

import time
from collections.abc import Sequence

from quire.server.limits import Limits
from quire.server.serving import Access
from scripts.load.clients import Numbered, Request, attack, closed_loop, in_process, open_loop
from scripts.load.promises import Promise, percentile, promise, timing
from scripts.load.world import expected_texts, no_errors, requests_of, same_bits, server

_KINDS = 24
_OVERLOADED = "HTTP 429 overloaded"
_LONG_TEXT = "one two three four five six seven eight nine ten " * 30
_VICTIM, _FLOOD = "key-of-the-victim", "key-of-the-flood"


def flood(seconds: float = 30.0, num_flooding: int = 48) -> list[Promise]:
    """Lets one key ask as much as it can while another sends long prompts, each of which is computed anew."""
    flooding = requests_of(_KINDS, 24)
    asked = [_lengthened(request) for request in requests_of(8, 8)]
    access = Access(port=0, keys=(_VICTIM, _FLOOD))
    with server(access=access) as (running, _):
        alone = in_process(closed_loop, running.url, asked, 1, seconds, _VICTIM).result()
        crowd = in_process(closed_loop, running.url, flooding, num_flooding, seconds + 5, _FLOOD)
        time.sleep(3)
        beside = in_process(closed_loop, running.url, asked, 1, seconds, _VICTIM).result()
        flooded = crowd.result()
    return [
        no_errors([*alone, *beside, *flooded]),
        same_bits([*alone, *beside], expected_texts(asked)),
        same_bits(flooded, expected_texts(flooding)),
        _ratio("another key's p99 TTFT", alone, beside, 1.5),
    ]


def _lengthened(request: Request) -> Request:
    (message,) = request["messages"]
    return {**request, "messages": [{**message, "content": f"{message['content']} {_LONG_TEXT}"}], "cache_salt": ""}


def overload(seconds: float = 60.0, factor: float = 20.0, warm_s: float = 20.0, max_tokens: int = 300) -> list[Promise]:
    """Sends `factor` times what the server can do. Answers are long, so that clients are no load on the machine themselves."""
    requests = requests_of(12, max_tokens, ignore_eos=True)
    expected = expected_texts(requests)
    with server(limits=Limits(open_requests=64)) as (running, _):
        full = in_process(closed_loop, running.url, requests, 48, warm_s).result()
        rate = _rate(full)
        found = in_process(open_loop, running.url, requests, factor * rate, seconds).result()
    refused_s = [outcome.ended_s - outcome.sent_s for _, outcome in found if outcome.error == _OVERLOADED]
    p99 = percentile(refused_s, 0.99) if refused_s else 0.0
    reached = _rate(found)
    return [
        promise(
            "some requests are refused", f"{len(refused_s)} of {len(found)} at {factor * rate:.0f} per second", bool(refused_s)
        ),
        no_errors(found, _OVERLOADED),
        same_bits([*full, *found], expected),
        timing("refusals take 50 ms at most", f"p99 {p99 * 1e3:.1f} ms", p99 <= 0.05),
        timing("goodput stays at 90 %", f"{reached:.2f} of {rate:.2f} per second", reached >= 0.9 * rate),
    ]


def slow(seconds: float = 20.0, num: int = 20) -> list[Promise]:
    """Lets clients be slow with heads, bodies and reading, beside good ones."""
    limits = Limits(head_s=3.0, body_grace_s=3.0, write_s=4.0)
    requests = requests_of(_KINDS, 24)
    expected = expected_texts(requests)
    patience_s = max(seconds, 30.0)
    with server(limits=limits, send_buffer_bytes=4096) as (running, _):
        alone = in_process(closed_loop, running.url, requests, 2, seconds).result()
        attacks = {
            kind: in_process(attack, running.url, requests[0], kind, num if kind != "reader" else 2, patience_s)
            for kind in ("head", "body", "reader")
        }
        time.sleep(0.5)
        beside = in_process(closed_loop, running.url, requests, 2, seconds).result()
        cuts = {kind: attacked.result() for kind, attacked in attacks.items()}
    found = [*alone, *beside]
    return [
        *(
            promise(f"slow with {kind}: cut", _spread(of_kind), all(cut is not None for cut in of_kind))
            for kind, of_kind in cuts.items()
        ),
        no_errors(found),
        same_bits(found, expected),
        _ratio("good clients' p99 TTFT", alone, beside, 1.2),
    ]


def _ratio(what: str, alone: Sequence[Numbered], beside: Sequence[Numbered], most: float) -> Promise:
    first, second = (
        percentile([outcome.ttft_s for _, outcome in found if outcome.ttft_s is not None], 0.99) for found in (alone, beside)
    )
    seen = f"{first * 1e3:.0f} -> {second * 1e3:.0f} ms, {second / first:.2f}x ({len(alone)} and {len(beside)} requests)"
    return timing(f"{what} grows to {most:g}x at most", seen, second <= most * first)


def _rate(found: Sequence[Numbered]) -> float:
    """Returns the answers per second."""
    ended = sorted(outcome.ended_s for _, outcome in found if outcome.error is None)
    began = min(outcome.sent_s for _, outcome in found)
    return len(ended) / (ended[-1] - began)


def _spread(cuts: Sequence[float | None]) -> str:
    done = [cut for cut in cuts if cut is not None]
    seen = f" after {min(done):.1f} to {max(done):.1f} s" if done else ""
    return f"{len(done)} of {len(cuts)}{seen}"
