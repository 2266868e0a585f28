"""Streams while hostile requests arrive: what they say is what they say without."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from support.hostile_shapes import SHAPES
from support.served import Served, served

MESSAGES = [{"role": "user", "content": "Tell me about the sea."}]
LENGTH = 60
DRAWN: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 1, "seed": 1},
    {"temperature": 0.8, "top_p": 0.9, "seed": 2, "frequency_penalty": 1},
    {"temperature": 1.5, "top_k": 50, "seed": 3, "allowed_token_ids": list(range(0, 3072, 3)), "min_tokens": 20},
)
VICTIMS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": LENGTH, "logprobs": True, **wish}) for wish in DRAWN),
    *(("/v1/completions", {"prompt": ["The sea", "The sky"], "max_tokens": LENGTH, "logprobs": 2, **wish}) for wish in DRAWN),
    *(("/v1/messages", {"messages": MESSAGES, "max_tokens": LENGTH, **wish}) for wish in DRAWN),
    *(
        ("/v1/responses", {"input": "Tell me about the sea.", "max_output_tokens": LENGTH, "store": False, **wish})
        for wish in DRAWN
    ),
)


@pytest.fixture(scope="module")
def crowded() -> Iterator[Served]:
    with served(options={"max_context": 512, "max_num_seqs": 12, "kv_memory": "8MiB"}) as running:
        yield running


def said(server: Served, path: str, fields: Mapping[str, Any]) -> list[Any]:
    """Returns what a stream says by its end: texts, log-probabilities, why it ended and what it took."""
    joined: dict[Any, str] = {}
    facts: list[Any] = []
    with httpx2.stream("POST", server.url + path, json={"ignore_eos": True, **fields, "stream": True}, timeout=300) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                take(json.loads(line.removeprefix("data: ")), joined, facts)
    return [joined, facts]


def take(event: Mapping[str, Any], joined: dict[Any, str], facts: list[Any]) -> None:
    assert "error" not in event, event
    for choice in event.get("choices", ()):
        text = choice["text"] if "text" in choice else choice["delta"].get("content", "")
        joined[choice["index"]] = joined.get(choice["index"], "") + text
        entries = choice["logprobs"] or {}
        facts += [[choice["index"], each] for each in entries.get("content", ())]
        facts += [
            [choice["index"], *each]
            for each in zip(*(entries.get(name) or () for name in ("tokens", "token_logprobs")), strict=True)
        ]
        if choice["finish_reason"]:
            facts.append([choice["index"], choice["finish_reason"]])
    if isinstance(event.get("delta"), (str, dict)) and event.get("type", "").endswith("delta"):
        text = event["delta"] if isinstance(event["delta"], str) else event["delta"].get("text", "")
        joined["text"] = joined.get("text", "") + text
        facts += [event["delta"]["stop_reason"]] if event["type"] == "message_delta" else []


def by_choice(answer: list[Any]) -> list[Any]:
    """Returns an answer in an order that does not say which choice was faster."""
    joined, facts = answer
    return [
        sorted(joined.items(), key=str),
        [[each for each in facts if isinstance(each, list) and each[0] == idx] for idx in (0, 1)],
        facts[-1:],
    ]


def test_what_victims_say_is_what_they_say_without_an_attack(crowded: Served) -> None:
    assert len(VICTIMS) == 16
    assert len(SHAPES) == 60
    with ThreadPoolExecutor(len(VICTIMS)) as pool:
        expected = [by_choice(each) for each in pool.map(lambda victim: said(crowded, *victim), VICTIMS)]
        streams = [pool.submit(said, crowded, *victim) for victim in VICTIMS]
        num_sent = attack_until(crowded.port, lambda: all(stream.done() for stream in streams))
        found = [by_choice(stream.result()) for stream in streams]
    assert num_sent >= len(SHAPES)
    assert found == expected
    assert all(len("".join(text for _, text in each[0])) > LENGTH for each in found), "every victim said something"
    assert crowded.service.trouble is None


def attack_until(port: int, is_over: Any) -> int:
    """Sends every shape at least once, and all again until it is over; returns how many were sent."""
    num_sent = 0
    lock = threading.Lock()

    def attack(shapes: list[Any]) -> None:
        nonlocal num_sent
        is_first = True
        while is_first or not is_over():
            for shape in shapes:
                if not is_first and is_over():
                    break
                shape(port)
                with lock:
                    num_sent += 1
            is_first = False

    shapes = list(SHAPES.values())
    attackers = [threading.Thread(target=attack, args=(shapes[start::6],)) for start in range(6)]
    for attacker in attackers:
        attacker.start()
    for attacker in attackers:
        attacker.join()
    return num_sent
