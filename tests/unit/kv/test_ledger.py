from __future__ import annotations

from quire.config import KVFormat
from quire.kv.explain import CacheExplanation, Facts, Unexplained
from quire.kv.layout import KVLayout
from quire.kv.ledger import MAX_ADMISSIONS, KVUsage, Ledger
from quire.request import Request, SamplingParams


def let_in(ledger: Ledger, request_id: str, num_reused: int = 0, *, step: int = 0) -> None:
    request = Request(request_id=request_id, prompt_token_ids=tuple(range(9)), sampling=SamplingParams())
    ledger.admit(Facts(request, b"root", b"root", num_reused, num_reused, 0, 8), None, step)


def explained(ledger: Ledger, request_id: str) -> CacheExplanation:
    found = ledger.explain(request_id)
    assert isinstance(found, CacheExplanation)
    return found


def test_every_state_of_a_request_without_an_admission_is_told_apart() -> None:
    ledger = Ledger()
    assert ledger.explain("a") is Unexplained.UNKNOWN
    ledger.open("a")
    assert ledger.explain("a") is Unexplained.WAITING
    ledger.close("a")
    assert ledger.explain("a") is Unexplained.NEVER_LET_IN


def test_requests_that_ended_are_forgotten_oldest_first_and_those_in_progress_never() -> None:
    ledger = Ledger(max_closed=2)
    ledger.open("runs")
    let_in(ledger, "runs", 4)
    for request_id in ("a", "b", "c"):
        ledger.open(request_id)
        let_in(ledger, request_id)
        ledger.close(request_id)
    assert ledger.explain("a") is Unexplained.UNKNOWN
    assert [explained(ledger, name).num_reused_tokens for name in ("runs", "b", "c")] == [4, 0, 0]
    assert len(ledger) == 3


def test_every_admission_is_kept_in_order_and_the_middle_of_very_many_left_out() -> None:
    ledger = Ledger()
    ledger.open("a")
    for step in range(MAX_ADMISSIONS + 5):
        let_in(ledger, "a", step, step=step)
    found = explained(ledger, "a")
    assert [each.step for each in found.admissions] == [0, *range(6, MAX_ADMISSIONS + 5)]
    assert (found.num_left_out, ledger.num_cached_tokens("a"), found.num_reused_tokens) == (5, 0, 0)


def test_admission_that_is_taken_back_leaves_those_before_it_and_what_was_waited_for() -> None:
    ledger = Ledger()
    ledger.open("a")
    let_in(ledger, "a", 4)
    ledger.note_wait("a", "b")
    ledger.note_wait("a", "b")
    let_in(ledger, "a", 8, step=3)
    assert explained(ledger, "a").admissions[1].waited_for == ("b",)
    ledger.take_back("a")
    assert len(explained(ledger, "a").admissions) == 1
    let_in(ledger, "a", 8, step=4)
    assert explained(ledger, "a").admissions[1].waited_for == ("b",)
    let_in(ledger, "a", 8, step=5)
    assert explained(ledger, "a").admissions[2].waited_for == ()
    ledger.take_back("a")
    ledger.take_back("a")
    ledger.take_back("a")
    assert (ledger.explain("a"), ledger.num_cached_tokens("a")) == (Unexplained.WAITING, 0)


def test_books_that_begin_again_forget_the_step_that_broke_the_old_ones() -> None:
    broken, ledger = Ledger(), Ledger()
    for request_id in ("ended", "old", "new"):
        broken.open(request_id)
    let_in(broken, "ended", 1)
    broken.close("ended")
    let_in(broken, "old", 2, step=6)
    let_in(broken, "new", 3, step=7)
    ledger.take_place_of(broken, step=7)
    ledger.open("old")
    ledger.open("new")
    assert [explained(ledger, name).num_reused_tokens for name in ("ended", "old")] == [1, 2]
    assert ledger.explain("new") is Unexplained.WAITING


def test_used_cached_and_empty_bytes_make_the_whole_pool() -> None:
    layout = KVLayout(num_layers=2, num_kv_heads=3, head_dim=4, block_size=32, format=KVFormat.BFLOAT16)
    usage = KVUsage.of(layout, num_blocks=10, num_free=7, num_cached=2)
    assert (usage.num_used_blocks, usage.num_cached_blocks, usage.num_empty_blocks) == (3, 2, 5)
    one_block = usage.bytes_per_block
    assert (usage.used_bytes, usage.cached_bytes, usage.empty_bytes) == (3 * one_block, 2 * one_block, 5 * one_block)
