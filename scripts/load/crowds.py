"""Many clients at once, and many that leave at once."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

from scripts.load.clients import ask_all, client_process, in_process, leave_after_first_text, raise_descriptor_limit, storm
from scripts.load.promises import Promise, promise, timing
from scripts.load.world import expected_texts, no_errors, requests_of, same_bits, seconds_until, server

_KINDS = 40
_REPEATS = 10


def streams(num: int = 1000, max_tokens: int = 16) -> list[Promise]:
    """Opens so many streams at once."""
    raise_descriptor_limit()
    requests = requests_of(min(num, _KINDS), max_tokens)
    expected = expected_texts(requests)
    with server() as (running, _):
        found = in_process(ask_all, running.url, requests, num).result()
    return [no_errors(found), same_bits(found, expected)]


def disconnects(num: int = 2000, seconds: float = 30.0) -> list[Promise]:
    """Lets so many clients leave at random phases within some seconds."""
    raise_descriptor_limit()
    requests = requests_of(_KINDS, 200)
    with client_process() as clients, server() as (running, inside):
        clients.submit(ask_all, running.url, requests, 2).result()
        seconds_until(lambda: inside.state()[3] == 0)
        before = inside.state()
        num_answered = clients.submit(storm, running.url, requests, num, seconds).result()
        took_s = seconds_until(lambda: inside.state() == before)
        after = inside.state()
        cached = _cached_on_repeat(clients, running.url)
    return [
        promise("blocks, descriptors, tasks and runs return to the baseline", f"{before} -> {after}", before == after),
        timing("within a second", "never" if took_s is None else f"{took_s:.2f} s", took_s is not None and took_s <= 1),
        promise("some clients left in the middle", f"{num_answered} of {num} stayed", num_answered < num),
        cached,
    ]


def _cached_on_repeat(clients: ProcessPoolExecutor, url: str) -> Promise:
    """Promises that a prompt whose client left at the first token is in the cache when it comes again."""
    asked = [
        {**request, "messages": [{"role": "user", "content": f"{number}: " + "one two three four five six seven eight " * 12}]}
        for number, request in enumerate(requests_of(_REPEATS, 40))
    ]
    had_text = clients.submit(leave_after_first_text, url, asked).result()
    found = clients.submit(ask_all, url, asked, len(asked)).result()
    missed = [
        (outcome.counts.num_prompt or 0) - (outcome.counts.num_cached or 0)
        for (_, outcome), begun in zip(found, had_text, strict=True)
        if begun
    ]
    is_kept = bool(missed) and max(missed) <= _MOST_MISSED
    return promise("a repeated prompt hits what was computed", f"{missed} tokens were not cached", is_kept)


_MOST_MISSED = 64
"""Tokens of a prompt that no whole block holds, and one more block."""
