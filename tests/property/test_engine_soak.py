"""A short run of `scripts/soak_engine.py`: with 100,000 requests it also compares the process's memory."""

from __future__ import annotations

from quire.request import FinishReason
from support.engine_soak import Soak

NUM_REQUESTS = 1_500


def test_books_are_clean_after_aborts_and_faults() -> None:
    soak = Soak(1)
    soak.run(NUM_REQUESTS)
    assert sum(soak.reasons.values()) == NUM_REQUESTS
    assert min(soak.reasons[reason] for reason in (FinishReason.ABORT, FinishReason.ERROR, FinishReason.LENGTH)) > 20
    assert soak.faults.num_made > 50
    assert len(soak.resident) == 11
