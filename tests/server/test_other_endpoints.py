"""Models, tokens, health and paths that lead nowhere."""

from __future__ import annotations

import anthropic
import httpx2
import openai
import pytest

from quire import __version__
from quire.engine.llm import LLM
from support.served import Served, served


def test_model_list_has_what_clients_of_both_vendors_look_for(client: openai.OpenAI, http: httpx2.Client, server: Served) -> None:
    (model,) = client.models.list()
    assert (model.id, model.object, model.owned_by) == ("bundled", "model", "quire")
    assert client.models.retrieve("bundled") == model
    card = http.get("/v1/models").json()["data"][0]
    context = server.service.max_context
    assert {card["max_model_len"], card["context_length"], card["meta"]["n_ctx"]} == {context}
    assert (card["type"], card["max_input_tokens"]) == ("model", context - 1)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/name")


def test_strict_client_of_anthropic_lists_models(server: Served) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, _strict_response_validation=True) as client:
        (model,) = client.models.list()
        assert client.models.retrieve("bundled") == model
    assert (model.id, model.type, model.lifecycle) == ("bundled", "model", "active")
    assert model.capabilities is not None
    assert model.max_input_tokens == server.service.max_context - 1


def test_chosen_names_are_the_only_ones() -> None:
    question = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    with served(names=("one", "org/two")) as running, httpx2.Client(base_url=running.url, timeout=60) as http:
        assert [card["id"] for card in http.get("/v1/models").json()["data"]] == ["one", "org/two"]
        assert http.get("/v1/models/org/two").status_code == 200
        answers = [http.post("/v1/chat/completions", json=question | {"model": name}) for name in ("one", "org/two", "bundled")]
        unnamed = http.post("/v1/chat/completions", json=question)
    assert [answer.json().get("model") for answer in (*answers[:2], unnamed)] == ["one", "org/two", "one"]
    assert answers[2].status_code == 404
    assert answers[2].json()["error"]["code"] == "model_not_found"
    assert "one, org/two" in answers[2].json()["error"]["message"]


def test_recommended_parameters_stand_in_for_what_is_left_out() -> None:
    question = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 20}
    with served(recommended={"temperature": 0.0}) as running, httpx2.Client(base_url=running.url, timeout=60) as http:
        recommended = http.post("/v1/chat/completions", json=question)
        asked = http.post("/v1/chat/completions", json=question | {"temperature": 1, "seed": 1})
    assert "x-quire-seed" not in recommended.headers
    assert "x-quire-seed" in asked.headers


def test_tokens_of_a_text_and_back(http: httpx2.Client, llm: LLM) -> None:
    text = "Greetings <|end|> 123"
    ids = llm.tokenizer.encode(text)
    answer = http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert (answer["tokens"], answer["count"]) == (ids, len(ids))
    assert "".join(answer["token_strs"]) == llm.tokenizer.decode(ids, skip_special=False)
    assert http.post("/tokenize", json={"content": text}).json()["tokens"] == ids
    back = http.post("/detokenize", json={"tokens": ids}).json()
    assert back["prompt"] == back["content"] == llm.tokenizer.decode(ids, skip_special=False)


def test_tokens_are_told_in_the_forms_of_both_servers(http: httpx2.Client, llm: LLM) -> None:
    text = "naïve 😀"
    answer = http.post("/tokenize", json={"content": text, "with_pieces": True, "parse_special": True}).json()
    pieces = [each["piece"] for each in answer["tokens"]]
    whole = b"".join(piece.encode() if isinstance(piece, str) else bytes(piece) for piece in pieces)
    assert (whole.decode(), [each["id"] for each in answer["tokens"]]) == (text, llm.tokenizer.encode(text))
    assert any(isinstance(piece, list) for piece in pieces), "halves of characters are bytes"
    plain = http.post("/tokenize", json={"prompt": text})
    assert (plain.json()["token_strs"], "x-quire-ignored" in plain.headers) == (None, False)
    assert http.post("/detokenize", json={"tokens": [1], "extra": 1}).headers["x-quire-ignored"] == "extra"


def test_tokens_of_a_chat_are_those_that_an_answer_counts(http: httpx2.Client) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    count = http.post("/tokenize", json={"messages": messages}).json()["count"]
    answer = http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1}).json()
    assert answer["usage"]["prompt_tokens"] == count


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "content": "a"}),
        ("/tokenize", {"prompt": 1}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": [10**9]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": "abc"}),
        ("/detokenize", {"tokens": [1] * 262_145}),
    ],
)
def test_wrong_tokens_are_refused(http: httpx2.Client, path: str, fields: dict[str, object]) -> None:
    assert http.post(path, json=fields).status_code == 400


def test_state_of_the_server(http: httpx2.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ready"}
    assert http.get("/version").json() == {"version": __version__}
    assert http.head("/").status_code == 200
    assert "POST /v1/chat/completions" in http.get("/").json()["endpoints"]


@pytest.mark.parametrize("path", ["/v1/chat/completion", "/v1", "/v1/chat/completions/", "/api/tags", "/v1/responses/a/b"])
def test_unknown_path_is_not_found_in_the_form_of_openai(http: httpx2.Client, path: str) -> None:
    for answer in (http.get(path), http.post(path, json={})):
        assert answer.status_code == 404
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"] == answer.headers["request-id"]


@pytest.mark.parametrize("path", ["/v1/messages/batches", "/v1/messages/count_tokens/"])
def test_path_of_anthropic_is_not_found_in_its_form(http: httpx2.Client, path: str) -> None:
    answer = http.post(path, json={})
    body = answer.json()
    assert (answer.status_code, body["type"], body["error"]["type"]) == (404, "error", "not_found_error")
    assert body["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/chat/completions"), ("DELETE", "/v1/models"), ("POST", "/health")])
def test_method_that_a_path_has_not_is_refused(http: httpx2.Client, method: str, path: str) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"]
    assert answer.json()["error"]["code"] == "method_not_allowed"
