"""`/v1/completions` and `/v1/score` with the official client, compared with `LLM.generate` and `LLM.score`."""

from __future__ import annotations

import json

import httpx2
import openai
import pytest

from quire.engine.llm import LLM
from quire.sampling import SamplingParams
from support.served import Served
from support.stream_rules import data_of

PROMPT = "The capital of France is"


@pytest.mark.parametrize("wish", [{"temperature": 0}, {"temperature": 0.8, "seed": 5, "n": 2}])
def test_stream_joined_is_the_whole_answer_and_the_librarys(
    client: openai.OpenAI, lenient_client: openai.OpenAI, llm: LLM, wish: dict[str, object]
) -> None:
    prompts = [PROMPT, "One, two, three,"]
    whole = client.completions.create(model="any", prompt=prompts, max_tokens=20, **wish)
    texts = [""] * len(whole.choices)
    for chunk in lenient_client.completions.create(model="any", prompt=prompts, max_tokens=20, stream=True, **wish):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    expected = llm.generate(prompts, SamplingParams(max_tokens=20, **wish))
    assert texts == [choice.text for choice in whole.choices] == [each.text for output in expected for each in output.outputs]


def test_token_ids_are_a_prompt(client: openai.OpenAI, llm: LLM) -> None:
    ids = llm.tokenizer.encode(PROMPT)
    one, many, text = (client.completions.create(model="any", prompt=prompt, temperature=0) for prompt in (ids, [ids], PROMPT))
    assert one.choices == many.choices == text.choices
    assert one.usage is not None
    assert one.usage.completion_tokens == 16, "the API's default"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_echo_begins_the_text_with_the_prompt_and_its_scores(http: httpx2.Client, llm: LLM, is_streamed: bool) -> None:
    fields = {"prompt": PROMPT, "echo": True, "logprobs": 2, "temperature": 0, "max_tokens": 3, "stream": is_streamed}
    answer = http.post("/v1/completions", json=fields)
    objects = [answer.json()] if not is_streamed else [json.loads(data) for data in data_of(answer.content)[:-1]]
    pieces = [each["choices"][0] for each in objects]
    text = "".join(piece["text"] for piece in pieces)
    entries = {key: [entry for piece in pieces for entry in piece["logprobs"][key]] for key in pieces[0]["logprobs"]}
    (expected,) = llm.generate([PROMPT], SamplingParams(temperature=0, max_tokens=3, logprobs=2))
    score = llm.score(PROMPT)
    assert text == PROMPT + expected.outputs[0].text
    assert entries["token_logprobs"][: len(score.logprobs)] == list(score.logprobs)
    assert "".join(entries["tokens"]) == text
    assert [text[offset:].startswith(token) for offset, token in zip(entries["text_offset"], entries["tokens"], strict=True)] == [
        True
    ] * len(entries["tokens"])
    assert entries["top_logprobs"][0] is None
    assert all(len(top) == 2 for top in entries["top_logprobs"][1:])


@pytest.mark.parametrize("is_streamed", [False, True])
def test_no_tokens_with_echo_scores_the_prompt(http: httpx2.Client, llm: LLM, is_streamed: bool) -> None:
    fields = {"prompt": [PROMPT, "Paris"], "echo": True, "logprobs": 1, "max_tokens": 0, "stream": is_streamed}
    answer = http.post("/v1/completions", json=fields)
    assert answer.status_code == 200
    if not is_streamed:
        body = answer.json()
        assert [choice["text"] for choice in body["choices"]] == [PROMPT, "Paris"]
        assert body["choices"][0]["logprobs"]["token_logprobs"] == list(llm.score(PROMPT).logprobs)
        assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
        assert body["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [1, "x"]}, "prompt.1"),
        ({"prompt": [[1], [-1]]}, "prompt.1.0"),
        ({"prompt": [True]}, "prompt.0"),
        ({"prompt": ["a", None]}, "prompt.1"),
        ({"prompt": ["x"] * 300}, "prompt"),
        ({"prompt": ["x"] * 200, "n": 3}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"min_tokens": 20, "max_tokens": 10}, "min_tokens"),
        ({"min_tokens": 1, "stop_token_ids": list(range(3072))}, "min_tokens"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(http: httpx2.Client, fields: dict[str, object], param: str) -> None:
    answer = http.post("/v1/completions", json={"prompt": PROMPT, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_ids_of_a_prompt_are_checked_against_the_logits(http: httpx2.Client, server: Served) -> None:
    width = server.service.vocab_size
    for token_id, status in ((width - 1, 200), (width, 400), (2**31, 400), (2**62, 400)):
        assert http.post("/v1/completions", json={"prompt": [1, token_id], "max_tokens": 1}).status_code == status


def test_empty_prompt_is_refused(http: httpx2.Client) -> None:
    assert http.post("/v1/completions", json={"prompt": ""}).status_code == 400


def test_score_is_that_of_the_library(http: httpx2.Client, llm: LLM) -> None:
    answer = http.post("/v1/score", json={"prompt": " Paris", "context": PROMPT, "top_logprobs": 2}).json()
    expected = llm.score(" Paris", given=PROMPT, num_candidates=2)
    assert answer["object"] == "score"
    assert tuple(answer["logprobs"]) == expected.logprobs
    assert (answer["total"], answer["loss"], answer["perplexity"]) == (expected.total, expected.loss, expected.perplexity)
    assert answer["num_context_tokens"] == expected.num_given_tokens
    assert "".join(answer["tokens"]) == PROMPT + " Paris"


def test_scores_that_every_choice_would_repeat_are_bounded(http: httpx2.Client, server: Served) -> None:
    fields: dict[str, object] = {"prompt": [[5] * 1000] * 3, "prompt_logprobs": 20, "n": 64, "max_tokens": 1}
    answer = http.post("/v1/completions", json=fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt_logprobs")
    assert (
        f"4032000 log-probabilities of prompts > {server.service.limits.prompt_entries} maximum"
        in answer.json()["error"]["message"]
    )
    assert http.post("/v1/completions", json=fields | {"prompt": [5] * 10}).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ["a"]}, "prompt.0"),
        ({"prompt": "a", "context": [1]}, "context"),
        ({"prompt": "a", "top_logprobs": 30}, "top_logprobs"),
        ({"prompt": "a", "priority": -101}, "priority"),
        ({"prompt": "word " * 3000}, None),
    ],
)
def test_score_refuses_by_name(http: httpx2.Client, fields: dict[str, object], param: str | None) -> None:
    answer = http.post("/v1/score", json=fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
