"""Every reason, count and position that the ledger tells, against an oracle that knows which tokens lie in which slot."""

from __future__ import annotations

from collections import Counter

from quire.kv.explain import MissReason
from support.explain_oracle import compare

NUM_REQUESTS = 5_000


def test_every_explanation_in_pools_that_are_always_full_is_true() -> None:
    tally = Counter[str]()
    compare(NUM_REQUESTS, tally)
    assert tally["requests"] >= NUM_REQUESTS
    assert min(tally[reason.value] for reason in MissReason if reason is not MissReason.DISABLED) > 50
    seen = ("let in again", "taken back", "lost to another domain", "computed again", "copied", "waited")
    assert min(tally[name] for name in seen) > 100
    assert tally["empty"] < 0.05 * tally["blocks"]
