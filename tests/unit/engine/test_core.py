"""The core's promises, over a fake model whose logits betray any misplaced token."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quire.config import KVCacheMode, PrefixCache
from quire.engine.completion import CompletionState
from quire.engine.core import EngineCore
from quire.engine.step_events import Progress, PromptProgress
from quire.errors import CapacityError, DuplicateRequestError, EmptyPromptError, PromptTooLongError, RequestError, SamplingError
from quire.executors.protocol import Float32Array, StepBatch
from quire.kv.explain import CacheExplanation, Unexplained
from quire.request import FinishReason, RequestOutput
from quire.sample.noise import child_seed
from quire.sched.pace import MIN_TOKENS
from quire.text.tokenizer import Tokenizer
from support.fake_engine import EOS, VOCAB_SIZE, FakeExecutor, letters_only, make_core, run_all, submission

PROMPT = tuple(range(20)) * 3


def _free(core: EngineCore) -> bool:
    pool = core.scheduler.manager.pool
    return pool.num_free == pool.num_blocks and not core.integrity_errors


def test_answer_does_not_depend_on_chunks_neighbors_or_cache(tokenizer: Tokenizer) -> None:
    alone = run_all(make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=512), submission("a", PROMPT, max_tokens=40))
    expected = alone["a"].outputs[0].token_ids
    for budget in (1, 7, 64):
        core = make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=budget)
        together = run_all(core, *(submission(name, PROMPT, max_tokens=40) for name in "abc"), submission("d", PROMPT[1:]))
        assert [together[name].outputs[0].token_ids for name in "abc"] == [expected] * 3
        assert run_all(core, submission("warm", PROMPT, max_tokens=40))["warm"].outputs[0].token_ids == expected
        assert _free(core)


@pytest.mark.parametrize("mode", list(KVCacheMode))
def test_without_any_cache_the_answer_is_the_same(tokenizer: Tokenizer, mode: KVCacheMode) -> None:
    expected = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, max_tokens=30))["a"].outputs
    core = make_core(FakeExecutor(), tokenizer, prefix_cache=PrefixCache.OFF, mode=mode)
    outputs = run_all(core, submission("a", PROMPT, max_tokens=30), submission("b", PROMPT, max_tokens=3))
    assert [out.token_ids for out in outputs["a"].outputs] == [out.token_ids for out in expected]


def test_cache_off_computes_every_token_in_every_step(tokenizer: Tokenizer) -> None:
    executor = FakeExecutor()
    core = make_core(executor, tokenizer, prefix_cache=PrefixCache.OFF, mode=KVCacheMode.OFF)
    run_all(core, submission("a", PROMPT, max_tokens=10))
    assert executor.num_tokens == sum(len(PROMPT) + step for step in range(10))


def test_itl_target_cuts_a_prompt_while_others_decode_and_changes_no_answer(tokenizer: Tokenizer) -> None:
    work = submission("stream", PROMPT[:5], max_tokens=30), submission("long", PROMPT * 4, max_tokens=3)
    expected = run_all(make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=512), *work)
    core = make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=512, itl_target_s=0.5)  # every step takes a second
    sizes: list[int] = []
    core.watcher = lambda record: sizes.append(record.plan.num_tokens)
    core.submit(work[0])
    core.step()
    outputs = run_all(core, work[1])
    assert max(sizes[1:]) == MIN_TOKENS + 1
    assert outputs["long"].outputs[0].token_ids == expected["long"].outputs[0].token_ids
    assert outputs["stream"].outputs[0].token_ids == expected["stream"].outputs[0].token_ids


def test_a_submission_that_asks_is_told_how_far_its_prompt_is(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=25)
    run_all(core, submission("cold", PROMPT[:40], max_tokens=2))
    core.submit(replace(submission("warm", PROMPT, max_tokens=4, n=2, temperature=1.0, seed=1), reports_prompt=True))
    core.submit(submission("silent", PROMPT[:10], max_tokens=4))
    told: list[PromptProgress] = []
    while core.has_work:
        events = core.step()
        told += [event for event in events if isinstance(event, PromptProgress)]
    assert {event.request_id for event in told} == {"warm"}
    cached = told[0].num_cached_tokens
    assert cached == 40
    assert {(event.num_tokens, event.num_cached_tokens) for event in told} == {(60, cached)}
    assert [event.num_computed_tokens for event in told] == sorted({event.num_computed_tokens for event in told})
    assert told[-1].num_computed_tokens == 60


def test_preemption_changes_no_token(tokenizer: Tokenizer) -> None:
    work = [submission(name, tuple(range(index, index + 25)), max_tokens=60) for index, name in enumerate("abcde")]
    roomy = run_all(make_core(FakeExecutor(64), tokenizer), *work)
    core = make_core(FakeExecutor(6), tokenizer)
    tight = run_all(core, *work)
    assert sum(output.metrics.num_preemptions for output in tight.values()) > 0
    assert {name: output.outputs[0].token_ids for name, output in tight.items()} == {
        name: output.outputs[0].token_ids for name, output in roomy.items()
    }
    assert _free(core)


def test_context_full_ends_with_length(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(2), tokenizer)
    output = run_all(core, submission("a", PROMPT[:50], max_tokens=None))["a"]
    assert (len(output.outputs[0].token_ids), output.outputs[0].finish_reason) == (14, FinishReason.LENGTH)


def test_failing_request_fails_alone(tokenizer: Tokenizer) -> None:
    work = [submission(name, (index, *PROMPT), max_tokens=12, **letters_only()) for index, name in enumerate("abcdef")]
    healthy = run_all(make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=512), *work)
    bad = submission("bad", (5, EOS, 5))
    core = make_core(FakeExecutor(poison=EOS), tokenizer, max_num_batched_tokens=512)
    outputs = run_all(core, *work[:3], bad, *work[3:])
    failed = outputs.pop("bad").outputs[0]
    assert (failed.finish_reason, failed.token_ids) == (FinishReason.ERROR, ())
    assert "choked" in (failed.error or "")
    assert {name: out.outputs for name, out in _without_seeds(outputs).items()} == {
        name: out.outputs for name, out in _without_seeds(healthy).items()
    }
    assert _free(core)


def _without_seeds(outputs: dict[str, RequestOutput]) -> dict[str, RequestOutput]:
    return {
        name: replace(output, outputs=tuple(replace(each, seed=0) for each in output.outputs)) for name, output in outputs.items()
    }


def test_usage_and_explanation_of_a_failed_admission_agree(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(poison=25), tokenizer)
    run_all(core, submission("warm", PROMPT, max_tokens=2))
    outputs = run_all(core, submission("bad", (*PROMPT, 25, 1)), submission("good", (*PROMPT, 1, 1), max_tokens=2))
    explain = core.scheduler.manager.explain
    assert (outputs["bad"].num_cached_tokens, explain("bad")) == (0, Unexplained.NEVER_LET_IN)
    explanation = explain("good")
    assert isinstance(explanation, CacheExplanation)
    assert outputs["good"].num_cached_tokens == explanation.num_reused_tokens == len(PROMPT)


def test_request_that_starts_to_fail_in_decode_keeps_what_it_has(tokenizer: Tokenizer) -> None:
    healthy = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, max_tokens=20, **letters_only()))[
        "a"
    ].outputs[0]
    culprit = healthy.token_ids[-2]
    first = healthy.token_ids.index(culprit)
    core = make_core(FakeExecutor(poison=culprit), tokenizer)
    prompt_is_harmless = culprit not in PROMPT
    output = run_all(core, submission("a", PROMPT, max_tokens=20, **letters_only()))["a"].outputs[0]
    assert output.finish_reason is FinishReason.ERROR
    assert output.token_ids == (healthy.token_ids[: first + 1] if prompt_is_harmless else ())


def test_nan_logits_fail_their_request_only(tokenizer: Tokenizer) -> None:
    work = [submission(name, (index, *PROMPT), max_tokens=12, **letters_only()) for index, name in enumerate("ab")]
    healthy = run_all(make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=512), *work)
    core = make_core(FakeExecutor(nan=EOS), tokenizer, max_num_batched_tokens=512)
    scored = submission("scored", (3, EOS, 3), prompt_logprobs=0)
    outputs = run_all(core, work[0], submission("bad", (EOS, 1)), scored, work[1])
    for name in ("bad", "scored"):
        assert outputs[name].outputs[0].finish_reason is FinishReason.ERROR
        assert "NaN" in (outputs[name].outputs[0].error or "")
    assert [outputs[name].outputs[0].token_ids for name in "ab"] == [healthy[name].outputs[0].token_ids for name in "ab"]
    assert _free(core)


def test_failure_of_everything_still_answers_everyone(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(poison=1), tokenizer)
    outputs = run_all(core, *(submission(str(index), (1, index)) for index in range(20)))
    assert {output.outputs[0].finish_reason for output in outputs.values()} == {FinishReason.ERROR}
    assert (len(outputs), _free(core)) == (20, True)


class _FlakyExecutor(FakeExecutor):
    """Fails whenever more than one request is in the batch, which nobody in particular is to blame for."""

    def run(self, batch: StepBatch) -> Float32Array:
        if len(batch.context_lens) > 1:
            raise MemoryError("too many at once")
        return super().run(batch)


def test_failure_of_the_batch_alone_costs_nobody_anything(tokenizer: Tokenizer) -> None:
    work = [submission(name, (index, *PROMPT), max_tokens=6) for index, name in enumerate("abc")]
    expected = run_all(make_core(FakeExecutor(), tokenizer), *work)
    outputs = run_all(make_core(_FlakyExecutor(), tokenizer), *work)
    assert [outputs[name].outputs[0].token_ids for name in "abc"] == [expected[name].outputs[0].token_ids for name in "abc"]


def test_text_that_cannot_be_made_ends_its_request_only(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    work = [submission(name, (index, *PROMPT), max_tokens=6) for index, name in enumerate("ab")]
    expected = run_all(make_core(FakeExecutor(), tokenizer), *work)
    advance = CompletionState.advance

    def failing_advance(state: CompletionState, token_ids: list[int], logprobs: None) -> Progress:
        if state.request.request_id == "a" and len(state.request.output_token_ids) == 3:
            raise UnicodeError("no such character")
        return advance(state, token_ids, logprobs)

    monkeypatch.setattr(CompletionState, "advance", failing_advance)
    core = make_core(FakeExecutor(), tokenizer)
    outputs = run_all(core, *work)
    assert outputs["b"].outputs[0].token_ids == expected["b"].outputs[0].token_ids
    failed = outputs["a"].outputs[0]
    assert (failed.finish_reason, len(failed.token_ids)) == (FinishReason.ERROR, 4)
    assert failed.error == "UnicodeError: no such character"
    assert _free(core)


def test_abort_returns_the_final_output_and_keeps_the_prefix(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    core.submit(submission("a", PROMPT, max_tokens=50))
    for _ in range(5):
        core.step()
    output = core.abort("a")
    assert output is not None
    assert (output.finished, output.outputs[0].finish_reason) == (True, FinishReason.ABORT)
    assert 0 < len(output.outputs[0].token_ids) < 50
    assert core.abort("a") is None
    assert _free(core)
    assert run_all(core, submission("b", PROMPT))["b"].num_cached_tokens == len(PROMPT) - 1


def test_abort_releases_text_held_back_for_a_stop(tokenizer: Tokenizer) -> None:
    params = {"max_tokens": 30, **letters_only()}
    whole = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, **params))["a"].outputs[0].text
    core = make_core(FakeExecutor(), tokenizer)
    core.submit(submission("a", PROMPT, stop=whole[:20] + "!", **params))
    for _ in range(6):
        core.step()
    output = core.abort("a")
    assert output is not None
    assert output.outputs[0].text == whole[: len(output.outputs[0].token_ids)] != ""


def test_n_completions_share_the_prompt_and_differ(tokenizer: Tokenizer) -> None:
    executor = FakeExecutor()
    core = make_core(executor, tokenizer, max_num_batched_tokens=512)
    prompt = PROMPT + PROMPT[:5]
    output = run_all(core, submission("a", prompt, n=4, temperature=1.0, seed=7, max_tokens=10))["a"]
    assert [each.index for each in output.outputs] == [0, 1, 2, 3]
    assert len({each.token_ids for each in output.outputs}) == 4
    assert executor.num_tokens < 2 * len(prompt) + 4 * 10
    assert output.finished


def test_each_completion_can_be_drawn_again_from_its_seed(tokenizer: Tokenizer) -> None:
    output = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, n=3, temperature=1.0, seed=None))["a"]
    for each in output.outputs:
        again = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, temperature=1.0, seed=each.seed))["a"]
        assert again.outputs[0].token_ids == each.token_ids
    assert len({each.seed for each in output.outputs}) == 3


def test_child_seeds_are_fixed_and_distinct() -> None:
    assert child_seed(42, 0) == 42
    assert len({child_seed(seed, index) for seed in range(30) for index in range(64)}) == 30 * 64


def test_metrics_count_from_submission(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=20)
    metrics = run_all(core, submission("a", PROMPT, max_tokens=4))["a"].metrics
    assert (metrics.ttft_s, metrics.e2e_s, metrics.num_steps, metrics.num_preemptions) == (3.0, 6.0, 6, 0)


@pytest.mark.parametrize(
    ("prompt", "params", "error"),
    [
        ((), {}, EmptyPromptError),
        ((VOCAB_SIZE,), {}, RequestError),
        ((-1,), {}, RequestError),
        (tuple([1] * 600), {}, PromptTooLongError),
        ((1,), {"max_tokens": 600}, CapacityError),
        ((1,), {"stop_token_ids": (VOCAB_SIZE,)}, SamplingError),
        ((1,), {"logit_bias": {VOCAB_SIZE: 1.0}}, SamplingError),
    ],
)
def test_impossible_request_is_refused_and_leaves_nothing(
    tokenizer: Tokenizer, prompt: tuple[int, ...], params: dict[str, object], error: type[Exception]
) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    with pytest.raises(error):
        core.submit(submission("a", prompt, **params))
    assert not core.has_work
    assert core.step() == []
    assert _free(core)


def test_request_id_in_use_is_refused(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    core.submit(submission("a/1", PROMPT))
    with pytest.raises(DuplicateRequestError):
        core.submit(submission("a/1", PROMPT))
    with pytest.raises(DuplicateRequestError):
        core.submit(submission("a", PROMPT, n=3, temperature=1.0))
    assert core.request_ids == ("a/1",)
    assert list(run_all(core)) == ["a/1"]
    core.submit(submission("b", PROMPT, n=2, temperature=1.0))
    with pytest.raises(DuplicateRequestError):
        core.submit(submission("b/0", PROMPT))
    assert list(run_all(core)) == ["b"]
    assert _free(core)
