"""Why a match ended: the reasons, in the smallest pools that bring them about, and as sentences."""

from __future__ import annotations

from quire.kv.evicted import Eviction, Evictions
from quire.kv.explain import Admission, CacheExplanation, Divergence, Facts, Loss, MissReason, explain, sentence, with_texts
from quire.kv.hashing import block_key
from quire.kv.pool import BlockPool
from quire.request import Request, SamplingParams

ROOT, OTHER_ROOT = b"root".ljust(32), b"other".ljust(32)
SIZE = 4


def pool_with(*contents: tuple[int, ...], num_blocks: int = 8) -> BlockPool:
    """Returns a pool in which blocks with these tokens follow the root."""
    pool = BlockPool(num_blocks, SIZE)
    for token_ids in contents:
        for block in pool.allocate(1, "writer", ROOT) or []:
            pool.commit(block, ROOT, block_key(ROOT, token_ids), token_ids, "writer")
            pool.release(block, "writer")
    return pool


def let_in(
    pool: BlockPool,
    token_ids: tuple[int, ...],
    *,
    limit: int = 9,
    num_reused: int = 0,
    is_scored: bool = False,
    waited_for: tuple[str, ...] = (),
) -> Admission:
    """Returns what is said of a request of ten tokens that begin with these, in step 9."""
    sampling = SamplingParams(prompt_logprobs=0 if is_scored else None)
    request = Request(request_id="r", prompt_token_ids=(*token_ids, *[0] * (10 - len(token_ids))), sampling=sampling)
    return explain(Facts(request, ROOT, ROOT, 0, num_reused, num_reused, limit), pool, 9, waited_for)


def test_cold_where_nothing_follows_the_prefix() -> None:
    assert let_in(pool_with(), (1, 2, 3, 4)).reason is MissReason.COLD


def test_diverged_at_the_first_token_that_differs_from_the_most_similar_continuation() -> None:
    found = let_in(pool_with((1, 2, 9, 9), (1, 2, 3, 7), (5, 5, 5, 5)), (1, 2, 3, 4), num_reused=3)
    assert (found.reason, found.divergence) == (MissReason.DIVERGED, Divergence(3, 4, 7))
    assert (found.num_matched_tokens, found.num_computed_tokens) == (3, 7)


def test_tokens_that_match_but_could_not_be_reused_are_told() -> None:
    found = let_in(pool_with((1, 2, 3, 7)), (1, 2, 3, 4))
    assert (found.num_reused_tokens, found.num_matched_tokens) == (0, 3)
    assert sentence(found) == "reused 0 of 10 tokens, computed 3 that match again, then diverged at token 3"


def test_partial_where_logits_are_wanted_of_the_rest_and_bypassed_where_a_prompt_is_scored() -> None:
    pool = pool_with((1, 2, 3, 4))
    for is_scored, reason in ((False, MissReason.PARTIAL), (True, MissReason.BYPASSED)):
        assert let_in(pool, (1, 2), limit=2, num_reused=2, is_scored=is_scored).reason is reason
        assert let_in(pool, (), limit=0, is_scored=is_scored).reason is reason


def test_evicted_only_where_more_was_cached_than_is_now() -> None:
    pool = pool_with((1, 2, 3, 4), num_blocks=1)
    pool.events.step = 5
    for block in pool.allocate(1, "thief", ROOT) or []:
        pool.release(block, "thief")
    found = let_in(pool, (1, 2, 3, 9))
    assert (found.reason, found.loss) == (MissReason.EVICTED, Loss(5, 4, "thief"))
    assert sentence(found).endswith("then evicted in step 5, 4 steps ago, for thief")
    again = pool_with((1, 2, 3, 4))
    again.evicted.remember(ROOT, (1, 2, 3, 4), Eviction(5, "thief", ROOT))
    assert let_in(again, (1, 2, 3, 9)).reason is MissReason.DIVERGED


def test_request_of_another_domain_is_never_named() -> None:
    pool = pool_with((1, 2, 3, 4), num_blocks=1)
    pool.allocate(1, "foreigner", OTHER_ROOT)
    found = let_in(pool, (1, 2, 3, 4))
    assert found.loss == Loss(0, 9, None)
    assert "foreigner" not in sentence(found)
    assert sentence(found).endswith("for another request")


def test_oldest_evictions_are_forgotten() -> None:
    evictions = Evictions(max_kept=2)
    for step, token_ids in enumerate([(1, 1), (2, 2), (1, 1), (3, 3)]):
        evictions.remember(ROOT, token_ids, Eviction(step, "r", ROOT))
    assert len(evictions) == 2
    assert evictions.most_similar(ROOT, (1, 1)) == (2, Eviction(2, "r", ROOT))
    assert evictions.most_similar(ROOT, (2, 2)) in ((0, Eviction(2, "r", ROOT)), (0, Eviction(3, "r", ROOT)))
    evictions.remember(OTHER_ROOT, (1,), Eviction(4, "r", ROOT))
    evictions.remember(OTHER_ROOT, (2,), Eviction(5, "r", ROOT))
    assert evictions.most_similar(ROOT, (1, 1)) is None


def test_explanation_reads_as_lines_and_shows_texts_where_they_are_known() -> None:
    pool = pool_with((1, 2, 3, 7))
    found = CacheExplanation(
        request_id="r1",
        admissions=(
            let_in(pool, (1, 2, 3, 4), num_reused=3, waited_for=("r0",)),
            let_in(pool, (1, 2, 3), limit=3, num_reused=3),
        ),
    )
    assert str(found).splitlines() == [
        "r1: reused 3 of 10 tokens (3 copied), then diverged at token 3; waited for r0",
        "  let in again: reused 3 of 10 tokens (3 copied), then partial",
    ]
    assert "diverged at token 3: '<4>' here, '<7>' in the cache" in str(with_texts(found, lambda token_id: f"<{token_id}>"))
