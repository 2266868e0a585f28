"""What `LLM` takes: prompts and conversations in every form, parameters and priorities; and what it refuses by type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire import LLM, SamplingParams
from quire.errors import EmptyPromptError, RequestError

PROMPTS = ["the quick brown fox", "jumps over the lazy dog and then some more of it", "a"]
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


def test_tokens_and_text_are_the_same_prompt(llm: LLM) -> None:
    token_ids = llm.tokenizer.encode(PROMPTS[0])
    outputs = [*llm.generate(PROMPTS[0], GREEDY), *llm.generate(token_ids, GREEDY), *llm.generate([token_ids], GREEDY)]
    assert len({output.outputs[0].token_ids for output in outputs}) == 1
    assert outputs[1].prompt is None


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
    assert llm.generate({"prompt": text, "cache_salt": "one"}, GREEDY)[0].num_cached_tokens == len(text) - 1


def test_smaller_priority_is_served_first(tiny_model: Path) -> None:
    with LLM(tiny_model, executor="reference", kv_memory="4MiB", max_num_seqs=1) as narrow:
        soon = SamplingParams(temperature=0, max_tokens=4)  # all end before the oldest has waited too long
        order = narrow.generate(PROMPTS, soon, priority=[2, 1, 0])
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
