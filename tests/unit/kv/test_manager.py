from __future__ import annotations

from typing import Any

import pytest

from quire.config import KVFormat, PrefixCache
from quire.errors import IntegrityError
from quire.kv.explain import CacheExplanation, MissReason, Unexplained
from quire.kv.layout import KVLayout
from quire.kv.manager import KVCacheManager
from quire.kv.pending import MIN_WORTH_WAITING
from quire.kv.pool import BlockPool
from quire.request import Request, SamplingParams

SIZE = 4


def manager_of(num_blocks: int = 10, prefix_cache: PrefixCache = PrefixCache.ON) -> KVCacheManager:
    return KVCacheManager(BlockPool(num_blocks, SIZE), fingerprint=b"model", prefix_cache=prefix_cache)


def opened(manager: KVCacheManager, name: str, tokens: range | tuple[int, ...], **fields: Any) -> Request:
    request = Request(
        request_id=name, prompt_token_ids=tuple(tokens), sampling=fields.pop("sampling", SamplingParams()), **fields
    )
    manager.open(request.request_id, tenant=request.tenant, salt=request.cache_salt)
    return request


def computed(manager: KVCacheManager, name: str, tokens: range | tuple[int, ...], **fields: Any) -> Request:
    """A request whose whole prompt was admitted, written and committed."""
    request = opened(manager, name, tokens, **fields)
    assert manager.admit(request, manager.match(request), request.num_tokens) is not None
    request.num_computed_tokens = request.num_tokens
    manager.commit(request, request.num_tokens)
    manager.end_step()
    return request


def reason_for(manager: KVCacheManager, request: Request) -> tuple[int, MissReason, int | None]:
    assert manager.admit(request, manager.match(request), request.num_tokens) is not None
    explanation = manager.explain(request.request_id)
    assert isinstance(explanation, CacheExplanation)
    return explanation.num_reused_tokens, explanation.reason, explanation.diverged_at


# -- matching ------------------------------------------------------------------------


def test_a_prompt_finds_the_full_blocks_of_an_equal_one() -> None:
    manager = manager_of()
    first = computed(manager, "first", range(10))
    second = opened(manager, "second", range(10))
    match = manager.match(second)
    assert (match.num_blocks, match.num_tokens) == (2, 9)
    assert manager.admit(second, match, 10) is not None
    assert manager.block_ids("second")[:2] == manager.block_ids(first.request_id)[:2]
    manager.check()


@pytest.mark.parametrize(("num_tokens", "num_matched"), [(1, 0), (4, 3), (5, 4), (8, 7), (9, 8), (12, 11), (13, 12)])
def test_a_match_never_covers_the_last_token(num_tokens: int, num_matched: int) -> None:
    manager = manager_of()
    computed(manager, "first", range(12))
    assert manager.match(opened(manager, "second", range(num_tokens))).num_tokens == num_matched


def test_finding_changes_nothing() -> None:
    manager = manager_of()
    manager.release(computed(manager, "first", range(9)).request_id)
    before = manager.pool.free_block_ids()
    manager.match(opened(manager, "second", range(9)))
    assert manager.pool.free_block_ids() == before


def test_a_block_is_not_findable_before_it_is_committed() -> None:
    manager = manager_of()
    writer = opened(manager, "writer", range(9))
    manager.admit(writer, manager.match(writer), 9)
    reader = opened(manager, "reader", range(9))
    assert manager.match(reader).num_tokens == 0
    manager.commit(writer, 7)
    assert manager.match(reader).num_tokens == 4


def test_equal_tokens_after_different_ones_are_not_shared() -> None:
    manager = manager_of()
    computed(manager, "first", (0, 0, 0, 0, 5, 6, 7, 8, 9))
    assert manager.match(opened(manager, "second", (1, 1, 1, 1, 5, 6, 7, 8, 9))).num_tokens == 0


@pytest.mark.parametrize("field", ["tenant", "cache_salt"])
def test_tenants_and_salts_do_not_see_each_other(field: str) -> None:
    manager = manager_of()
    computed(manager, "first", range(9))
    assert manager.match(opened(manager, "second", range(9), **{field: "other"})).num_tokens == 0


def test_without_prefix_cache_nothing_is_found_or_kept() -> None:
    manager = manager_of(prefix_cache=PrefixCache.OFF)
    manager.close(computed(manager, "first", range(9)).request_id)
    assert manager.pool.num_cached == 0
    assert manager.match(opened(manager, "second", range(9))).num_tokens == 0


def test_output_tokens_are_found_like_prompt_tokens() -> None:
    manager = manager_of()
    first = computed(manager, "first", range(6))
    first.output_token_ids.extend((6, 7, 8))
    manager.reserve("first", 9)
    manager.commit(first, 8)
    assert manager.match(opened(manager, "second", range(9))).num_tokens == 8


# -- explaining ------------------------------------------------------------------------


def test_explains_a_cold_start() -> None:
    manager = manager_of()
    assert reason_for(manager, opened(manager, "r", range(9))) == (0, MissReason.COLD, None)


def test_explains_the_first_token_that_diverged() -> None:
    manager = manager_of()
    computed(manager, "first", range(12))
    second = opened(manager, "second", (0, 1, 2, 3, 4, 5, 99, 7, 8))
    assert reason_for(manager, second) == (6, MissReason.DIVERGED, 6)


def test_explains_by_the_most_similar_of_many_continuations() -> None:
    manager = manager_of(num_blocks=200)
    computed(manager, "close", (0, 1, 2, 3, 4, 5, 6, 7))
    for number in range(40):
        computed(manager, f"far {number}", (0, 1, 2, 3, 100 + number, 5, 6, 7))
    assert reason_for(manager, opened(manager, "r", (0, 1, 2, 3, 4, 5, 6, 99, 8))) == (7, MissReason.DIVERGED, 7)


def test_explains_an_eviction() -> None:
    manager = manager_of(num_blocks=4)
    manager.close(computed(manager, "first", range(9)).request_id)
    manager.close(computed(manager, "other", range(50, 62)).request_id)
    assert reason_for(manager, opened(manager, "second", range(9))) == (4, MissReason.EVICTED, None)


def test_explains_that_only_the_last_token_was_left() -> None:
    manager = manager_of()
    computed(manager, "first", range(10))
    assert reason_for(manager, opened(manager, "second", range(10))) == (9, MissReason.PARTIAL, None)


def test_explains_that_the_cache_is_off() -> None:
    manager = manager_of(prefix_cache=PrefixCache.OFF)
    assert reason_for(manager, opened(manager, "r", range(9))) == (0, MissReason.DISABLED, None)


def test_prompt_logprobs_bypass_the_cache_until_they_were_given() -> None:
    manager = manager_of()
    computed(manager, "first", range(9))
    scored = opened(manager, "scored", range(9), sampling=SamplingParams(prompt_logprobs=0))
    assert reason_for(manager, scored) == (0, MissReason.BYPASSED, None)
    manager.release("scored")
    scored.output_token_ids.append(9)
    assert manager.match(scored).num_tokens == 9


@pytest.mark.parametrize(("num_context", "num_matched"), [(1, 0), (2, 1), (4, 3), (5, 4), (8, 7), (9, 8), (10, 9)])
def test_a_scored_prompt_reuses_context_tokens_up_to_the_one_that_predicts(num_context: int, num_matched: int) -> None:
    manager = manager_of()
    computed(manager, "first", range(10))
    params = SamplingParams(prompt_logprobs=0)
    scored = opened(manager, "scored", range(10), sampling=params, num_context_tokens=num_context)
    assert reason_for(manager, scored) == (num_matched, MissReason.BYPASSED, None)


def test_given_tokens_that_were_never_cached_are_explained_as_cold() -> None:
    manager = manager_of()
    scored = opened(manager, "scored", range(10), sampling=SamplingParams(prompt_logprobs=0), num_context_tokens=9)
    assert reason_for(manager, scored) == (0, MissReason.COLD, None)


def test_an_unknown_request_has_no_explanation() -> None:
    assert manager_of().explain("nobody") is Unexplained.UNKNOWN


# -- holding ---------------------------------------------------------------------------


def test_admission_is_all_or_nothing() -> None:
    manager = manager_of(num_blocks=3)
    computed(manager, "first", range(8))
    second = opened(manager, "second", range(100, 108))
    before = manager.pool.free_block_ids()
    assert manager.admit(second, manager.match(second), 4) is None
    assert manager.block_ids("second") == ()
    assert manager.pool.free_block_ids() == before
    assert manager.explain("second") is Unexplained.WAITING
    manager.check()


def test_cached_blocks_that_a_match_revives_count_as_memory() -> None:
    manager = manager_of(num_blocks=3)
    manager.close(computed(manager, "first", range(8)).request_id)
    computed(manager, "holder", (77,))
    second = opened(manager, "second", range(12))
    assert manager.match(second).num_tokens == 8
    assert manager.admit(second, manager.match(second), 12) is None
    manager.check()


def test_reserve_grows_the_table_and_never_changes_its_head() -> None:
    manager = manager_of(num_blocks=3)
    computed(manager, "r", range(4))
    before = manager.block_ids("r")
    grown = manager.reserve("r", 9)
    assert grown is not None
    assert (grown[:1], len(grown)) == (before, 3)
    assert manager.reserve("r", 13) is None
    assert manager.block_ids("r") is grown


def test_a_table_that_did_not_grow_is_the_same_tuple() -> None:
    manager = manager_of()
    computed(manager, "r", range(5))
    assert manager.reserve("r", 6) is manager.reserve("r", 8)


def test_trim_gives_back_only_what_was_not_written() -> None:
    manager = manager_of()
    request = computed(manager, "r", range(8))
    manager.reserve("r", 16)
    manager.trim("r", 2)
    assert len(manager.block_ids("r")) == 2
    with pytest.raises(IntegrityError, match="were committed"):
        manager.trim(request.request_id, 1)


def test_committing_more_than_is_held_is_reported() -> None:
    manager = manager_of()
    request = computed(manager, "r", range(8))
    request.output_token_ids.extend(range(4))
    with pytest.raises(IntegrityError, match="holds room for 8"):
        manager.commit(request, 12)


def test_opening_twice_is_a_defect() -> None:
    manager = manager_of()
    opened(manager, "r", range(3))
    with pytest.raises(IntegrityError, match="has a table already"):
        opened(manager, "r", range(3))


def test_release_lets_tails_be_evicted_before_heads() -> None:
    manager = manager_of(num_blocks=3)
    request = computed(manager, "r", range(12))
    table = manager.block_ids("r")
    manager.release(request.request_id)
    assert manager.pool.free_block_ids() == tuple(reversed(table))


# -- waiting for what is being computed --------------------------------------------------


def waited_for(manager: KVCacheManager, reader: Request) -> str | None:
    return manager.match(reader).waits_for


def test_a_request_waits_for_the_one_that_computes_its_prefix_to_the_token() -> None:
    manager = manager_of()
    writer, reader = opened(manager, "writer", range(9)), opened(manager, "reader", range(11))
    assert waited_for(manager, reader) is None
    manager.admit(writer, manager.match(writer), 4)
    assert waited_for(manager, reader) == "writer"
    manager.reserve("writer", 9)
    manager.commit(writer, 8)
    assert manager.match(reader)[:2] == (2, 8)
    assert waited_for(manager, reader) is None, "one token is not worth a step: eight are, or all that could be reused"
    manager.commit(writer, 9)
    assert (waited_for(manager, reader), manager.match(reader).num_tokens) == (None, 9)
    manager.check()


def test_a_request_waits_for_the_last_token_of_an_equal_prompt() -> None:
    manager = manager_of()
    writer, reader = opened(manager, "writer", range(10)), opened(manager, "reader", range(10))
    manager.admit(writer, manager.match(writer), 10)
    manager.commit(writer, 8)
    assert waited_for(manager, reader) == "writer"
    manager.commit(writer, 10)
    assert manager.match(reader).num_tokens == 9


@pytest.mark.parametrize(("num_shared", "is_worth_it"), [(MIN_WORTH_WAITING - 1, False), (MIN_WORTH_WAITING, True)])
def test_a_request_waits_for_a_part_of_a_block_that_is_worth_a_step(num_shared: int, is_worth_it: bool) -> None:
    manager = KVCacheManager(BlockPool(4, 32), fingerprint=b"model")
    writer = opened(manager, "writer", range(40))
    reader = opened(manager, "reader", (*range(num_shared), *range(100, 120)))
    manager.admit(writer, manager.match(writer), 8)
    assert (waited_for(manager, reader) == "writer") == is_worth_it


def test_no_request_waits_for_what_is_cached_already() -> None:
    manager = manager_of()
    computed(manager, "first", range(7))
    second, third = opened(manager, "second", range(7)), opened(manager, "third", range(7))
    manager.admit(second, manager.match(second), 7)
    assert waited_for(manager, third) is None


def test_waiting_ends_with_the_request_that_computes() -> None:
    manager = manager_of()
    writer, reader = opened(manager, "writer", range(9)), opened(manager, "reader", range(9))
    manager.admit(writer, manager.match(writer), 4)
    manager.release("writer")
    assert waited_for(manager, reader) is None


# -- integrity and building ----------------------------------------------------------------


def test_check_sees_a_reference_that_no_table_holds() -> None:
    manager = manager_of()
    request = computed(manager, "r", range(8))
    manager.pool.share(manager.pool.blocks[manager.block_ids(request.request_id)[0]], "ghost")
    with pytest.raises(IntegrityError, match="is in 1 tables"):
        manager.check()


def test_usage_tells_used_cached_and_empty_blocks_in_bytes() -> None:
    layout = KVLayout(num_layers=1, num_kv_heads=1, head_dim=8, block_size=SIZE, format=KVFormat.FLOAT32)
    manager = manager_of()
    manager.close(computed(manager, "gone", range(8)).request_id)
    computed(manager, "here", range(50, 55))
    usage = manager.usage(layout)
    assert (usage.num_used_blocks, usage.num_cached_blocks, usage.num_empty_blocks) == (2, 2, 6)
    assert usage.used_bytes == 2 * layout.bytes_per_block
