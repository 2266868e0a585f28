"""`LLM.explain` and `LLM.kv_ledger`: both stories of one request, the texts, and an error for each thing that is not known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from quire import LLM, SamplingParams
from quire.engine.driving import greedy
from quire.engine.kv_ledger import kv_ledger
from quire.errors import NotExplainedError
from quire.kv.explain import MissReason
from quire.kv.ledger import DEFAULT_MAX_CLOSED

GREEDY = SamplingParams(temperature=0, max_tokens=4)
PROMPT = [3 + position % 20 for position in range(70)]


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, max_context=256, kv_memory="1MiB", max_num_seqs=2) as llm:
        yield llm


def _prompt(token_ids: list[int], salt: str) -> dict[str, object]:
    return {"prompt_token_ids": token_ids, "cache_salt": salt}


def test_texts_of_both_tokens_are_told_where_prompts_part(llm: LLM) -> None:
    changed = [*PROMPT[:50], 1, *PROMPT[51:]]
    llm.generate(_prompt(PROMPT, "texts"), GREEDY)
    (output,) = llm.generate(_prompt(changed, "texts"), GREEDY)
    divergence = llm.explain(output).first.divergence
    assert divergence is not None
    here, there = llm.tokenizer.token_text(1), llm.tokenizer.token_text(PROMPT[50])
    assert tuple(divergence) == (50, 1, PROMPT[50], here, there)
    assert f"{here!r} here, {there!r} in the cache" in str(llm.explain(output))


def test_output_and_its_id_are_explained_alike(llm: LLM) -> None:
    (output,) = llm.generate(_prompt(PROMPT, "alike"), GREEDY)
    assert llm.explain(output.request_id) == llm.explain(output)
    assert llm.explain(output).num_reused_tokens == output.num_cached_tokens


def test_every_completion_has_an_explanation_of_its_own(llm: LLM) -> None:
    (output,) = llm.generate(_prompt(PROMPT, "several"), SamplingParams(n=2, seed=1, max_tokens=4))
    first, second = (llm.explain(f"{output.request_id}/{index}") for index in range(2))
    assert llm.explain(output) == first
    assert first.num_reused_tokens == 0
    assert second.num_reused_tokens >= 64


def test_same_text_under_another_salt_is_never_mentioned(llm: LLM) -> None:
    llm.generate(_prompt(PROMPT, "one"), GREEDY)
    (output,) = llm.generate(_prompt(PROMPT, "two"), GREEDY)
    explanation = llm.explain(output)
    assert (explanation.num_reused_tokens, explanation.first.num_matched_tokens, explanation.diverged_at) == (0, 0, None)
    assert explanation.reason is not MissReason.DIVERGED


def test_waiting_request_is_an_error_of_its_own_until_it_is_let_in(llm: LLM) -> None:
    llm.core.submit(greedy("waits", PROMPT, 4))
    with pytest.raises(NotExplainedError, match=r"still waits.*Ask again when"):
        llm.explain("waits")
    llm.core.step()
    assert llm.explain("waits").num_tokens == len(PROMPT)
    llm.core.abort("waits")


def test_id_that_never_was_is_told_from_one_that_is_forgotten(llm: LLM) -> None:
    (output,) = llm.generate(_prompt(PROMPT, "forgotten"), GREEDY)
    ledger = llm.core.scheduler.manager.ledger
    for number in range(DEFAULT_MAX_CLOSED):
        ledger.open(f"other-{number}")
        ledger.close(f"other-{number}")
    with pytest.raises(NotExplainedError, match=r"is forgotten.*Ask right after the answer"):
        llm.explain(output)
    for never in ("request-999999999", "request-0", "request-01", "request-", "", "x" * 10_000):
        with pytest.raises(NotExplainedError, match=r"never a request of this id.*Pass the request_id") as caught:
            llm.explain(never)
        assert len(str(caught.value)) < 500


def test_request_that_ended_before_it_began_says_so(llm: LLM) -> None:
    ledger = llm.core.scheduler.manager.ledger
    ledger.open("left")
    ledger.close("left")
    with pytest.raises(NotExplainedError, match=r"ended before it reused or computed anything"):
        llm.explain("left")


def test_ledger_between_steps_sums_up(llm: LLM) -> None:
    stream = llm.stream(_prompt(PROMPT, "ledger"), SamplingParams(max_tokens=9, ignore_eos=True))
    output = next(stream)
    ledger = llm.kv_ledger()
    ledger.check()
    (request,) = ledger.requests
    assert (request.request_id, request.num_blocks) == (output.request_id, 3)
    assert request.num_tokens == len(PROMPT)
    stream.close()
    after = llm.kv_ledger()
    after.check()
    assert (after.requests, after.usage.num_used_blocks) == ((), 0)
    assert after.usage == kv_ledger(llm.core).usage
