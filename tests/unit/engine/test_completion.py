"""What a reader of one completion sees: text, stops and log-probabilities."""

from __future__ import annotations

import pytest

from quire.engine.core import EngineCore
from quire.engine.step_events import Progress
from quire.request import FinishReason, RequestOutput
from quire.text.tokenizer import Tokenizer
from support.fake_engine import E_ACUTE, EOS, FakeExecutor, letters_of, letters_only, make_core, run_all, submission

PROMPT = tuple(range(20)) * 3


def test_stop_string_across_tokens_is_cut_and_named(tokenizer: Tokenizer) -> None:
    params = {"max_tokens": 30, **letters_only()}
    whole = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, **params))["a"].outputs[0]
    assert whole.text == letters_of(whole.token_ids)
    stop = whole.text[10:13]
    first = whole.text.index(stop)
    cut = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, stop=stop, **params))["a"].outputs[0]
    assert (cut.text, cut.finish_reason, cut.stop_reason) == (whole.text[:first], FinishReason.STOP, stop)
    assert cut.token_ids == whole.token_ids[: first + 3]
    kept = submission("a", PROMPT, stop=stop, include_stop_str_in_output=True, **params)
    assert run_all(make_core(FakeExecutor(), tokenizer), kept)["a"].outputs[0].text == whole.text[: first + 3]


def test_min_tokens_holds_back_stop_strings(tokenizer: Tokenizer) -> None:
    params = {"max_tokens": 30, **letters_only()}
    whole = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, **params))["a"].outputs[0]
    stop = whole.text[0]
    output = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, stop=stop, min_tokens=12, **params))["a"]
    assert len(output.outputs[0].token_ids) > 12
    assert output.outputs[0].text == whole.text[: len(output.outputs[0].text)]


def test_stop_id_stays_in_tokens_but_not_inletters_of(tokenizer: Tokenizer) -> None:
    params = {"max_tokens": 30, **letters_only()}
    whole = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, **params))["a"].outputs[0]
    stop_id = whole.token_ids[7]
    first = whole.token_ids.index(stop_id)
    cut = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, stop_token_ids=(stop_id,), **params))[
        "a"
    ].outputs[0]
    assert (cut.token_ids, cut.text) == (whole.token_ids[: first + 1], whole.text[:first])
    assert (cut.finish_reason, cut.stop_reason) == (FinishReason.STOP, stop_id)


def test_end_of_sequence_ends_unless_ignored(tokenizer: Tokenizer) -> None:
    wants_eos = {"logit_bias": {EOS: 100.0}}
    core = make_core(FakeExecutor(), tokenizer)
    ended = run_all(core, submission("a", PROMPT, ignore_eos=False, **wants_eos))["a"].outputs[0]
    assert (ended.token_ids, ended.text, ended.finish_reason, ended.stop_reason) == ((EOS,), "", FinishReason.STOP, None)
    later = run_all(core, submission("a", PROMPT, ignore_eos=False, min_tokens=3, **wants_eos))["a"].outputs[0]
    assert (later.token_ids[-1], len(later.token_ids)) == (EOS, 4)
    ignored = run_all(core, submission("a", PROMPT, **wants_eos))["a"].outputs[0]
    assert (ignored.token_ids, ignored.finish_reason) == ((EOS,) * 8, FinishReason.LENGTH)


def test_held_back_text_is_released_at_the_end(tokenizer: Tokenizer) -> None:
    params = {"max_tokens": 5, **letters_only()}
    whole = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, **params))["a"].outputs[0].text
    held = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, stop=whole[3:] + "Z", **params))["a"].outputs[0]
    assert (held.text, held.finish_reason) == (whole, FinishReason.LENGTH)


def test_half_a_character_is_never_shown(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    core.submit(submission("a", PROMPT, max_tokens=1, logit_bias={E_ACUTE[0]: 100.0}))
    (progress, output) = core.step()
    assert isinstance(progress, Progress)
    assert isinstance(output, RequestOutput)
    assert progress.text == output.outputs[0].text == "\ufffd"


def test_logprobs_come_one_a_token_with_theirletters_of(tokenizer: Tokenizer) -> None:
    output = run_all(make_core(FakeExecutor(), tokenizer), submission("a", PROMPT, logprobs=3, **letters_only()))["a"].outputs[0]
    assert output.logprobs is not None
    assert len(output.logprobs) == len(output.token_ids) == 8
    for token_id, entry in zip(output.token_ids, output.logprobs, strict=True):
        assert 3 <= len(entry) <= 4
        assert entry[token_id].decoded_token == letters_of((token_id,))
        assert all(candidate.logprob <= 0 for candidate in entry.values())


@pytest.mark.parametrize("budget", [1, 5, 64, 512])
def test_prompt_logprobs_do_not_depend_on_chunks(tokenizer: Tokenizer, budget: int) -> None:
    def scored(core: EngineCore) -> RequestOutput:
        run_all(core, submission("warm", PROMPT))
        return run_all(core, submission("a", PROMPT, prompt_logprobs=2))["a"]

    whole = scored(make_core(FakeExecutor(), tokenizer, max_num_batched_tokens=512))
    executor = FakeExecutor()
    output = scored(make_core(executor, tokenizer, max_num_batched_tokens=budget))
    assert output.prompt_logprobs == whole.prompt_logprobs
    assert output.prompt_logprobs is not None
    assert (len(output.prompt_logprobs), output.prompt_logprobs[0]) == (len(PROMPT), None)
    assert all(
        entry is not None and token_id in entry for token_id, entry in zip(PROMPT[1:], output.prompt_logprobs[1:], strict=True)
    )
    assert executor.max_rows <= budget


def test_prompt_logprobs_survive_preemption_in_the_middle_of_the_prompt(tokenizer: Tokenizer) -> None:
    """The older request decodes into a third block while the prompt of the younger, a token a step, fills its second."""
    decoding, scored = submission("a", PROMPT[:25], max_tokens=70), submission("b", PROMPT + PROMPT[:4], prompt_logprobs=1)
    roomy = run_all(make_core(FakeExecutor(64), tokenizer, max_num_batched_tokens=64), decoding, scored)
    core = make_core(FakeExecutor(4), tokenizer, max_num_batched_tokens=2)
    tight = run_all(core, decoding, scored)
    assert tight["b"].metrics.num_preemptions == 1
    assert tight["b"].prompt_logprobs == roomy["b"].prompt_logprobs


def test_tokens_after_the_one_that_ends_the_completion_are_not_taken(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    state = core.submit(submission("a", PROMPT, stop="cd", max_tokens=6)).states[0]
    taken = state.advance([1, 2, 3, 4])
    assert (taken.token_ids, taken.finish_reason, taken.stop_reason) == ((1, 2, 3), FinishReason.STOP, "cd")
    assert state.output().text == "b"
    short = core.submit(submission("b", PROMPT, max_tokens=2)).states[0]
    assert short.advance([1, 2, 3]).token_ids == (1, 2)
    assert short.output().text == "bc"
