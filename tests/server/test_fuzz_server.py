"""Mutated requests of all APIs; `scripts/fuzz_server.py` sends as many as are wanted."""

from __future__ import annotations

import asyncio
import json

import pytest

from support.asgi_client import Asked, Reply
from support.request_mutations import mutation
from support.server_fuzzing import fault_in, fuzz

COUNT = 320


def test_no_mutation_gets_a_5xx_and_normal_requests_are_answered_as_before() -> None:
    found = asyncio.run(fuzz(COUNT, 0))
    assert found.total() == COUNT
    statuses = {outcome.rpartition(" ")[2] for outcome in found}
    assert {"200", "400", "404", "415"} <= statuses


def test_seed_names_one_request() -> None:
    assert [mutation(seed) for seed in range(50)] == [mutation(seed) for seed in range(50)]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"error": {"message": "x", "type": "x"}}'),
        (400, json.dumps({"error": {"message": "x" * 5000, "type": "x"}}).encode()),
        (400, b'{"detail": "x"}'),
    ],
)
def test_unfit_answers_are_found(status: int, body: bytes) -> None:
    reply = Reply(status=status, headers={"content-type": "application/json"}, body=body)
    assert fault_in(reply, Asked(path="/v1/completions")) is not None
