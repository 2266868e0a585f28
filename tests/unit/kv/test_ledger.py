from __future__ import annotations

from quire.config import KVFormat
from quire.kv.layout import KVLayout
from quire.kv.ledger import CacheExplanation, EvictedKeys, KVUsage, Ledger, MissReason


def explanation(request_id: str, num_reused: int = 0) -> CacheExplanation:
    return CacheExplanation(request_id=request_id, num_tokens=9, num_reused_tokens=num_reused, reason=MissReason.COLD)


def test_evicted_keys_forget_the_oldest_when_full() -> None:
    keys = EvictedKeys(max_keys=2)
    for key in (b"a", b"b", b"a", b"c"):
        keys.remember(key)
    assert b"b" not in keys
    assert b"a" in keys
    assert b"c" in keys
    assert len(keys) == 2


def test_a_ledger_keeps_the_newest_explanations() -> None:
    ledger = Ledger(max_explanations=2)
    for request_id in ("a", "b", "c"):
        ledger.record(explanation(request_id))
    assert ledger.explain("a") is None
    assert ledger.explain("c") == explanation("c")
    assert len(ledger) == 2


def test_a_later_explanation_replaces_the_earlier_one_of_the_same_request() -> None:
    ledger = Ledger()
    ledger.record(explanation("a"))
    ledger.record(explanation("a", num_reused=4))
    assert ledger.explain("a") == explanation("a", num_reused=4)
    assert len(ledger) == 1


def test_an_explanation_reads_as_a_sentence() -> None:
    text = CacheExplanation(request_id="r1", num_tokens=9, num_reused_tokens=4, reason=MissReason.DIVERGED, diverged_at=6)
    assert str(text) == "r1: reused 4 of 9 tokens, then diverged at token 6"
    assert str(explanation("r2")) == "r2: reused 0 of 9 tokens, then cold"


def test_used_cached_and_empty_bytes_make_the_whole_pool() -> None:
    layout = KVLayout(num_layers=2, num_kv_heads=3, head_dim=4, block_size=32, format=KVFormat.BFLOAT16)
    usage = KVUsage.of(layout, num_blocks=10, num_free=7, num_cached=2)
    assert (usage.num_used_blocks, usage.num_cached_blocks, usage.num_empty_blocks) == (3, 2, 5)
    one_block = 2 * 2 * 3 * 4 * 2 * 32
    assert (usage.used_bytes, usage.cached_bytes, usage.empty_bytes) == (3 * one_block, 2 * one_block, 5 * one_block)
