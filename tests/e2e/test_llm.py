"""`LLM` from a checkpoint on disk to text, on the reference executor."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from quire import LLM, SamplingParams
from quire.errors import RequestError
from quire.executors.protocol import Float32Array, StepBatch
from quire.kv.explain import CacheExplanation, MissReason
from quire.request import FinishReason
from support.fake_engine import EOS

PROMPTS = ["the quick brown fox", "jumps over the lazy dog and then some more of it", "a"]
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


def test_outputs_come_in_the_order_of_prompts(llm: LLM) -> None:
    together = llm.generate(PROMPTS, GREEDY)
    assert [output.prompt for output in together] == PROMPTS
    for prompt, output in zip(PROMPTS, together, strict=True):
        (alone,) = llm.generate(prompt, GREEDY)
        assert alone.outputs[0].token_ids == output.outputs[0].token_ids
        assert alone.outputs[0].text == llm.tokenizer.decode(alone.outputs[0].token_ids)
    assert len({output.request_id for output in together}) == len(PROMPTS)


def test_recomputing_everything_gives_the_same_greedy_tokens(llm: LLM, tiny_model: Path) -> None:
    cached = llm.generate(PROMPTS, GREEDY)
    with LLM(tiny_model, executor="reference", kv_cache="off", max_context=128) as uncached:
        recomputed = uncached.generate(PROMPTS, GREEDY)
    assert [out.outputs[0].token_ids for out in cached] == [out.outputs[0].token_ids for out in recomputed]
    assert {out.num_cached_tokens for out in recomputed} == {0}


def test_stream_brings_what_generate_returns(llm: LLM) -> None:
    params = SamplingParams(temperature=0.9, seed=5, max_tokens=40, logprobs=2)
    (whole,) = llm.generate(PROMPTS[0], params)
    deltas = list(llm.stream(PROMPTS[0], params))
    assert "".join(delta.outputs[0].text for delta in deltas) == whole.outputs[0].text
    assert tuple(token for delta in deltas for token in delta.outputs[0].token_ids) == whole.outputs[0].token_ids
    assert [delta.finished for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    assert tuple(entry for delta in deltas for entry in delta.outputs[0].logprobs or ()) == whole.outputs[0].logprobs
    last = deltas[-1].outputs[0]
    assert (last.finish_reason, last.stop_reason, last.seed) == (whole.outputs[0].finish_reason, whole.outputs[0].stop_reason, 5)


def test_cumulative_logprob_is_the_sum_over_the_tokens(llm: LLM) -> None:
    params = SamplingParams(temperature=0.9, seed=5, max_tokens=12, logprobs=0, ignore_eos=True)
    completion = llm.generate(PROMPTS[0], params)[0].outputs[0]
    chosen = [entry[token].logprob for entry, token in zip(completion.logprobs or (), completion.token_ids, strict=True)]
    assert completion.cumulative_logprob == pytest.approx(sum(chosen))
    sums = [delta.outputs[0].cumulative_logprob for delta in llm.stream(PROMPTS[0], params)]
    assert sums == pytest.approx([*np.cumsum(chosen), sum(chosen)])
    assert llm.generate(PROMPTS[0], GREEDY)[0].outputs[0].cumulative_logprob is None


def test_outputs_are_json(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=3, logprobs=1, prompt_logprobs=1, ignore_eos=True)
    (output,) = llm.generate(PROMPTS[0], params)
    told = json.loads(json.dumps(dataclasses.asdict(output)))
    assert told["outputs"][0]["finish_reason"] == output.outputs[0].finish_reason == "length"


def test_closing_a_stream_keeps_the_computed_prefix(llm: LLM) -> None:
    prompt = "a prompt that is longer than two blocks so that a block of it can be found again later on ok"
    stream = llm.stream(prompt, GREEDY)
    next(stream)
    assert llm.core.has_work
    stream.close()  # type: ignore[attr-defined]
    assert not llm.core.has_work
    (again,) = llm.generate(prompt, GREEDY)
    assert again.num_cached_tokens == len(again.prompt_token_ids) - 1


def test_stream_collected_as_garbage_in_the_middle_of_a_step_ends_after_it(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = llm.generate(PROMPTS[1], GREEDY)[0].outputs[0].text
    run = llm.core.executor.run

    def collecting_run(batch: StepBatch) -> Float32Array:
        monkeypatch.setattr(llm.core.executor, "run", run)
        gc.collect()
        return run(batch)

    cycle: list[object] = [llm.stream(PROMPTS[0], GREEDY)]
    next(cycle[0])  # type: ignore[call-overload]
    cycle.append(cycle)
    del cycle
    monkeypatch.setattr(llm.core.executor, "run", collecting_run)
    assert llm.generate(PROMPTS[1], GREEDY)[0].outputs[0].text == expected


def test_stream_that_is_never_read_computes_nothing(llm: LLM) -> None:
    stream = llm.stream(PROMPTS[0], GREEDY)
    assert not llm.core.has_work
    del stream


def test_generate_while_a_stream_is_open_disturbs_neither(llm: LLM) -> None:
    expected = [output.outputs[0].text for output in llm.generate(PROMPTS, GREEDY)]
    stream = llm.stream(PROMPTS[0], GREEDY)
    text = next(stream).outputs[0].text
    assert [output.outputs[0].text for output in llm.generate(PROMPTS[1:], GREEDY)] == expected[1:]
    assert text + "".join(delta.outputs[0].text for delta in stream) == expected[0]


def test_turns_of_a_conversation_find_each_other_in_the_cache(llm: LLM) -> None:
    conversation = llm.conversation()
    num_before = 0
    for words in ("tell me about the sea and what is in it", "and now about the mountains", "thank you"):
        conversation.add_user(words)
        prompt = conversation.prompt_token_ids()
        (output,) = llm.generate(prompt, GREEDY)
        assert output.num_cached_tokens == num_before or not num_before
        conversation.add_assistant(output.outputs[0].token_ids)
        num_before = len(prompt) + len(output.outputs[0].token_ids) - 1
    assert conversation.num_rewritten_tokens == 0


def test_interrupt_ends_all_requests_between_steps(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    run = llm.core.executor.run
    num_finished_runs = 0

    def interrupted_run(batch: StepBatch) -> Float32Array:
        nonlocal num_finished_runs
        if num_finished_runs == 4:
            os.kill(os.getpid(), signal.SIGINT)
        logits = run(batch)
        num_finished_runs += 1
        return logits

    monkeypatch.setattr(llm.core.executor, "run", interrupted_run)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPTS, GREEDY)
    assert num_finished_runs == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_end_of_sequence_stops_an_answer(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=9, logit_bias={EOS: 100.0})
    (output,) = llm.generate(PROMPTS[0], params)
    assert (output.outputs[0].finish_reason, output.outputs[0].text) == (FinishReason.STOP, "")


def test_closed_llm_refuses_work(tiny_model: Path) -> None:
    closed = LLM(tiny_model, executor="reference", kv_memory="1MiB")
    stream = closed.stream(PROMPTS[0], GREEDY)
    next(stream)
    closed.close()
    closed.close()
    with pytest.raises(RequestError, match="closed"):
        closed.generate(PROMPTS[0])
    with pytest.raises(RequestError, match="closed"):
        next(stream)


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(n=2, seed=1, max_tokens=4)], ids=["one", "several"])
def test_every_request_can_be_explained(llm: LLM, sampling: SamplingParams) -> None:
    def explain(token_ids: list[int]) -> CacheExplanation:
        (output,) = llm.generate({"prompt_token_ids": token_ids, "cache_salt": f"explained {sampling.n}"}, sampling)
        return llm.explain(output)

    prompt = [3 + i % 20 for i in range(70)]
    found = [explain(prompt), explain([*prompt[:50], 1, *prompt[51:]]), explain(prompt)]
    facts = [(each.num_reused_tokens, each.reason, each.diverged_at) for each in found if each is not None]
    assert facts == [(0, MissReason.COLD, None), (50, MissReason.DIVERGED, 50), (69, MissReason.PARTIAL, None)]
