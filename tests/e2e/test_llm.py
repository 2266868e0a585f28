"""`LLM` from a checkpoint on disk to text, on the reference executor."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire import LLM, SamplingParams
from quire.errors import ConfigError, EmptyPromptError, ExecutorUnavailableError, RequestError
from quire.executors.protocol import Float32Array, StepBatch
from quire.kv.ledger import CacheExplanation, MissReason
from quire.request import FinishReason
from support.fake_engine import EOS

PROMPTS = ["the quick brown fox", "jumps over the lazy dog and then some more of it", "a"]
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, executor="reference", kv_memory="64MiB") as opened:
        yield opened


@pytest.fixture(autouse=True)
def _nothing_leaks(llm: LLM) -> Iterator[None]:
    yield
    pool = llm.core.scheduler.manager.pool
    llm.core.scheduler.manager.check()
    assert (pool.num_free, llm.core.integrity_errors, llm.core.has_work) == (pool.num_blocks, [], False)


def test_outputs_come_in_the_order_of_prompts(llm: LLM) -> None:
    together = llm.generate(PROMPTS, GREEDY)
    assert [output.prompt for output in together] == PROMPTS
    for prompt, output in zip(PROMPTS, together, strict=True):
        (alone,) = llm.generate(prompt, GREEDY)
        assert alone.outputs[0].token_ids == output.outputs[0].token_ids
        assert alone.outputs[0].text == llm.tokenizer.decode(alone.outputs[0].token_ids)
    assert len({output.request_id for output in together}) == len(PROMPTS)


def test_tokens_and_text_are_the_same_prompt(llm: LLM) -> None:
    token_ids = llm.tokenizer.encode(PROMPTS[0])
    outputs = [*llm.generate(PROMPTS[0], GREEDY), *llm.generate(token_ids, GREEDY), *llm.generate([token_ids], GREEDY)]
    assert len({output.outputs[0].token_ids for output in outputs}) == 1
    assert outputs[1].prompt is None


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
    assert llm.generate(prompt, GREEDY)[0].num_cached_tokens == 64


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


def test_prompts_of_vllm_mean_the_same(llm: LLM) -> None:
    ids = llm.tokenizer.encode(PROMPTS[0])
    forms = [
        {"prompt": PROMPTS[0]},
        {"prompt_token_ids": ids},
        {"prompt": None, "prompt_token_ids": np.array(ids)},
        np.array(ids),
        [np.int64(token) for token in ids],
        tuple(ids),
    ]
    expected = llm.generate(PROMPTS[0], sampling_params=GREEDY)[0].outputs[0].token_ids
    for output in [*llm.generate(forms, GREEDY), *(llm.generate(form, GREEDY)[0] for form in forms)]:
        assert output.outputs[0].token_ids == expected
        assert {type(token) for token in output.prompt_token_ids} == {int}
    assert len(llm.generate(np.array([ids, ids]), GREEDY)) == 2
    assert next(llm.stream(forms[0], sampling_params=GREEDY)).outputs[0].token_ids == expected[:1]


@pytest.mark.parametrize(
    "bad",
    [
        b"bytes", [b"bytes"], bytearray(b"x"), None, 7, [None], [1, "a"], [1.5], [True], np.array([1.5]), np.array(3),
        {"prompt": b"x"}, {"text": "x"}, {}, {"prompt": "x", "multi_modal_data": {}}, {"prompt": "x", "cache_salt": 5},
        {"prompt": "x", "cache_salt": "\ud800"}, {"prompt": "x", "prompt_token_ids": [1]}, {"prompt": "", "prompt_token_ids": []},
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_prompt_is_refused_by_type(llm: LLM, bad: Any) -> None:
    what = "a prompt is a text|a prompt is given as a text and as token ids|a prompt's dictionary has|cache_salt is a text"
    with pytest.raises(RequestError, match=what) as caught:
        llm.generate(bad, GREEDY)
    assert caught.value.next_step
    with pytest.raises(RequestError, match=what):
        llm.stream(bad, GREEDY)


@pytest.mark.parametrize("bad", [{"max_tokens": 3}, {}, "greedy", 0, [None], [{"max_tokens": 3}], (SamplingParams,)], ids=repr)
def test_what_is_no_sampling_params_is_refused_by_type(llm: LLM, bad: Any) -> None:
    for ask in (lambda: llm.generate(["a"], bad), lambda: llm.chat([{"role": "user", "content": "a"}], bad)):
        with pytest.raises(RequestError, match="sampling_params is") as caught:
            ask()
        assert "SamplingParams(" in caught.value.next_step
    with pytest.raises(RequestError, match="sampling_params is"):
        llm.stream("a", bad)


def test_cache_salt_keeps_a_prefix_apart(llm: LLM) -> None:
    text = "salted " * 12
    assert llm.generate({"prompt": text, "cache_salt": "one"}, GREEDY)[0].num_cached_tokens == 0
    assert llm.generate({"prompt": text, "cache_salt": "two"}, GREEDY)[0].num_cached_tokens == 0
    assert llm.generate({"prompt": text, "cache_salt": "one"}, GREEDY)[0].num_cached_tokens == 64


def test_smaller_priority_is_served_first(tiny_model: Path) -> None:
    with LLM(tiny_model, executor="reference", kv_memory="4MiB", max_num_seqs=1) as narrow:
        order = narrow.generate(PROMPTS, GREEDY, priority=[2, 1, 0])
        waits = [output.metrics.ttft_s or 0.0 for output in order]
        assert waits == sorted(waits, reverse=True)
        (late, early) = (narrow.stream("a", GREEDY), narrow.stream("b", GREEDY, priority=-1))
        assert [next(late).finished, next(early).finished] == [False, False]
        late.close()  # type: ignore[attr-defined]
        early.close()  # type: ignore[attr-defined]
        assert len(narrow.chat([{"role": "user", "content": "a"}], GREEDY, priority=3)) == 1


@pytest.mark.parametrize("bad", [1.5, "0", None, True, [0, 1], [None]], ids=repr)
def test_what_is_no_priority_is_refused_by_type(llm: LLM, bad: Any) -> None:
    with pytest.raises(RequestError, match="priority"):
        llm.generate(["a"], GREEDY, priority=bad)


@pytest.mark.parametrize("bad", ["", []])
def test_one_bad_prompt_stops_all_before_anything_runs(llm: LLM, bad: str | list[int]) -> None:
    with pytest.raises(EmptyPromptError):
        llm.generate([PROMPTS[0], bad, PROMPTS[1]], GREEDY)
    with pytest.raises(EmptyPromptError):
        llm.stream(bad, GREEDY)


def test_params_must_match_prompts(llm: LLM) -> None:
    one_token = SamplingParams(temperature=0, max_tokens=1)
    outputs = llm.generate(PROMPTS[:2], [one_token, GREEDY])
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 24]
    with pytest.raises(RequestError, match="one for each"):
        llm.generate(PROMPTS, [GREEDY])


def test_score_is_the_log_probability_of_every_token(llm: LLM, tiny_model: Path) -> None:
    import torch
    import transformers

    text = " ".join(PROMPTS)
    score = llm.score(text, num_candidates=3)
    model = transformers.LlamaForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.tensor([score.token_ids])).logits[0], dim=-1)
    assert score.logprobs[0] is None
    assert len(score.logprobs) == len(score.token_ids) == len(text)
    wanted = [float(expected[i, token]) for i, token in enumerate(score.token_ids[1:])]
    np.testing.assert_allclose(np.array(score.logprobs[1:], dtype=np.float64), wanted, rtol=1e-4, atol=1e-4)
    assert score.total == pytest.approx(sum(wanted), rel=1e-4)
    assert all(entry is not None and 3 <= len(entry) <= 4 for entry in score.candidates[1:])


def test_a_score_after_given_text_is_that_of_the_whole_text(llm: LLM) -> None:
    context, texts = "a context that is long enough to fill two blocks of the cache and one token more", (" and so", " or not")
    for index, text in enumerate(texts):
        whole, score = llm.score(context + text), llm.score(text, given=context)
        assert score.token_ids == whole.token_ids
        assert score.num_given_tokens == len(context)
        assert (whole.num_cached_tokens, score.num_cached_tokens) == (0, 64), index
        assert score.logprobs[: len(context)] == (None,) * len(context)
        np.testing.assert_allclose(score.logprobs[len(context) :], whole.logprobs[len(context) :], rtol=0, atol=1e-4)
        assert score.loss == pytest.approx(-score.total / len(text))
        assert score.perplexity == pytest.approx(np.exp(-score.total / len(text)))


def test_given_tokens_before_tokens_and_salts_keep_apart(llm: LLM) -> None:
    context = llm.tokenizer.encode("another context which nobody else scores and which fills a block at least")
    text = llm.tokenizer.encode(" and so")
    first = llm.score(text, given=context)
    again = llm.score({"prompt_token_ids": text}, given=np.array(context))
    salted = llm.score({"prompt_token_ids": text, "cache_salt": "mine"}, given=context)
    assert (first.num_cached_tokens, again.num_cached_tokens, salted.num_cached_tokens) == (0, 64, 0)
    assert first.token_ids == again.token_ids == salted.token_ids == (*context, *text)
    np.testing.assert_allclose(again.logprobs[len(context) :], first.logprobs[len(context) :], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "context", "error", "words"),
    [
        ("text", [1, 2], RequestError, "different forms"),
        ([1, 2], "text", RequestError, "different forms"),
        ("text", {"prompt": "x", "cache_salt": "y"}, RequestError, "given is a text or token ids"),
        ("text", 7, RequestError, "a prompt is a text"),
        ([], [1, 2], EmptyPromptError, "nothing to score"),
        ("", "text", EmptyPromptError, "nothing to score"),
    ],
)
def test_what_cannot_be_scored_is_refused(llm: LLM, text: Any, context: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        llm.score(text, given=context)


def test_chat_renders_the_template(llm: LLM) -> None:
    conversation = [{"role": "user", "content": "hello"}]
    (output,) = llm.chat(conversation, GREEDY)
    assert output.prompt == "u hello a "
    assert output.outputs[0].token_ids == llm.generate("u hello a ", GREEDY)[0].outputs[0].token_ids
    assert len(llm.chat([conversation, conversation], GREEDY)) == 2
    parts = [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]
    assert llm.chat(parts, GREEDY)[0].prompt == "u hel lo a "
    for part in ({"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}, "hello", None):
        with pytest.raises(RequestError, match="not text"):
            llm.chat([{"role": "user", "content": [part]}], GREEDY)
    with pytest.raises(RequestError, match="list of messages"):
        llm.chat("hello", GREEDY)  # type: ignore[arg-type]


def test_what_the_template_would_ignore_is_refused_before_anything_runs(llm: LLM) -> None:
    asked = [{"role": "user", "content": "hello"}]
    ignored: list[dict[str, Any]] = [
        {"tools": [{"name": "f"}]}, {"documents": [{"text": "a"}]}, {"variables": {"enable_thinking": False}},
        {"variables": {"messages": []}}, {"chat_template": "tool_use"}, {"chat_template_kwargs": {}},
    ]  # fmt: skip
    for inputs in ignored:
        with pytest.raises(RequestError):
            llm.chat(asked, GREEDY, **inputs)
        with pytest.raises(RequestError):
            llm.conversation(**inputs)
    assert not llm.core.has_work


def test_turns_of_a_conversation_find_each_other_in_the_cache(llm: LLM) -> None:
    conversation = llm.conversation()
    num_before = 0
    for words in ("tell me about the sea and what is in it", "and now about the mountains", "thank you"):
        conversation.add_user(words)
        prompt = conversation.prompt_token_ids()
        (output,) = llm.generate(prompt, GREEDY)
        assert output.num_cached_tokens == num_before // 32 * 32
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float64"}, "auto, float32, bfloat16"),
        ({"quantize": "int3"}, "none, int8, int4"),
        ({"kv_format": "fp8"}, "auto, float32, bfloat16"),
        ({"kv_cache": "maybe"}, "paged, off"),
        ({"prefix_cache": "yes"}, "on, off"),
        ({"executor": "magic"}, "auto, native, reference"),
        ({"kv_memory": "lots"}, "512MiB"),
        ({"kv_memory": 100}, "one block"),
        ({"max_context": 513}, "512"),
        ({"max_context": 512, "kv_memory": "100KiB"}, "512 tokens"),
        ({"kv_memory": 0}, "kv_memory"),
        ({"kv_memory": "0GiB"}, "kv_memory"),
        ({"kv_memory": True}, "kv_memory"),
        ({"kv_memory": b"1GiB"}, "kv_memory"),
        ({"threads": 0}, "threads"),
        ({"threads": "2"}, "given: '2'"),
        ({"max_context": 1}, "2 or more"),
        ({"gpu_memory_utilization": 0.9}, "kv_memory is a size"),
    ],
)
def test_option_that_cannot_work_says_what_can(tiny_model: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LLM(tiny_model, **({"executor": "reference"} | options))  # type: ignore[typeddict-item]


def test_threads_come_from_the_option_then_from_the_environment(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_THREADS", "3")
    with LLM(tiny_model, executor="reference", kv_memory="1MiB") as llm:
        assert llm.config.threads == 3
    with LLM(tiny_model, executor="reference", kv_memory="1MiB", threads=1) as llm:
        assert llm.config.threads == 1


def test_missing_native_core_is_refused_only_when_asked_for(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.engine.resolve.NATIVE_CORE", "quire.native.not_built")
    with pytest.raises(ExecutorUnavailableError, match="executor='reference'"):
        LLM(tiny_model, executor="native")
    with LLM(tiny_model, kv_memory="1MiB") as fallback:
        assert fallback.core.executor.name.startswith("reference")


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
    def explain(token_ids: list[int]) -> CacheExplanation | None:
        (output,) = llm.generate({"prompt_token_ids": token_ids, "cache_salt": f"explained {sampling.n}"}, sampling)
        return llm.explain(output)

    prompt = [3 + i % 20 for i in range(70)]
    found = [explain(prompt), explain([*prompt[:50], 1, *prompt[51:]]), explain(prompt)]
    facts = [(each.num_reused_tokens, each.reason, each.diverged_at) for each in found if each is not None]
    assert facts == [(0, MissReason.COLD, None), (32, MissReason.DIVERGED, 50), (64, MissReason.PARTIAL, None)]
