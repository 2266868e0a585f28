"""Responses that are kept: the next turn, what the client may ask of them, and whose they are."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import openai
import pytest

from quire.engine.llm import LLM
from quire.sampling import SamplingParams
from quire.server.limits import Limits
from quire.server.serving import Access
from support.responses_rules import response_events
from support.served import Served, served

QUESTION = "What is the capital of France?"
KEYS = ("first-secret-key", "second-secret-key")


@pytest.fixture(scope="module")
def clients() -> Iterator[list[httpx2.Client]]:
    """Two owners of one server."""
    with served(access=Access(port=0, keys=KEYS), limits=Limits(stored_responses=8)) as running:
        mine, yours = (httpx2.Client(base_url=running.url, timeout=60, headers={"x-api-key": key}) for key in KEYS)
        with mine, yours:
            yield [mine, yours]


def post(http: httpx2.Client, **fields: object) -> httpx2.Response:
    return http.post("/v1/responses", json={"input": QUESTION, "temperature": 0, "max_output_tokens": 8, **fields})


def test_second_turn_is_the_whole_conversation(client: openai.OpenAI, llm: LLM) -> None:
    first = client.responses.create(model="any", input=QUESTION, instructions="You are brief.", temperature=0)
    second = client.responses.create(model="any", input="And of Spain?", previous_response_id=first.id, temperature=0)
    conversation = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And of Spain?"},
    ]
    (expected,) = llm.chat(conversation, SamplingParams(temperature=0, max_tokens=None))
    assert second.output_text == expected.outputs[0].text, "instructions belong to one turn"
    assert second.previous_response_id == first.id
    assert second.usage is not None
    assert second.usage.input_tokens == len(expected.prompt_token_ids)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_second_turn_reuses_the_first_up_to_its_last_computed_token(
    http: httpx2.Client, server: Served, is_streamed: bool
) -> None:
    own: dict[str, object] = {"cache_salt": str(is_streamed), "max_output_tokens": 100}
    answer = post(http, input="Describe a day at the sea. " * 6, stream=is_streamed, **own)
    first = response_events(answer.content)[-1]["response"] if is_streamed else answer.json()
    second = post(http, input="Go on.", previous_response_id=first["id"], **own).json()
    size = server.service.source.block_size
    computed = first["usage"]["total_tokens"] - 1  # the last token was drawn and not computed
    assert computed // size > first["usage"]["input_tokens"] // size, "the answer ends in a block of its own"
    assert computed % size, "and does not fill it"
    assert second["usage"]["input_tokens_details"]["cached_tokens"] == computed


def test_item_may_be_named_instead_of_sent(client: openai.OpenAI) -> None:
    first = client.responses.create(model="any", input=QUESTION, temperature=0)
    (item,) = first.output
    asked = {"role": "user", "content": QUESTION}, {"role": "user", "content": "And of Spain?"}
    sent = client.responses.create(model="any", input=[asked[0], item.to_dict(), asked[1]], temperature=0)
    for reference in ({"type": "item_reference", "id": item.id}, {"id": item.id}):
        named = client.responses.create(model="any", input=[asked[0], reference, asked[1]], temperature=0)
        assert named.output_text == sent.output_text
        assert named.usage is not None
        assert sent.usage is not None
        assert named.usage.input_tokens == sent.usage.input_tokens
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="any", input=[asked[0], reference, asked[1]])
    assert (caught.value.param, caught.value.code) == ("input.1", "item_not_found")


def test_item_that_is_named_often_is_read_once(client: openai.OpenAI, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    (item,) = client.responses.create(model="any", input=QUESTION, temperature=0).output
    asked: list[str] = []
    store = server.service.stored
    assert store is not None
    read = store.item
    monkeypatch.setattr(store, "item", lambda owner, item_id: (asked.append(item_id), read(owner, item_id))[1])
    named = client.responses.create(model="any", input=[{"type": "item_reference", "id": item.id}] * 20, temperature=0)
    assert named.status == "completed"
    assert asked == [item.id]


def test_stored_response_is_the_one_that_was_sent(client: openai.OpenAI) -> None:
    sent = client.responses.create(model="any", input=QUESTION, temperature=0, metadata={"a": "b"})
    assert client.responses.retrieve(sent.id) == sent
    with client.responses.stream(model="any", input=QUESTION, temperature=0) as stream:
        final = stream.get_final_response()
    assert client.responses.retrieve(final.id).output_text == final.output_text
    client.responses.delete(sent.id)
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            ask(sent.id)


def test_deletion_is_confirmed(http: httpx2.Client) -> None:
    response_id = post(http).json()["id"]
    assert http.delete(f"/v1/responses/{response_id}").json() == {"id": response_id, "object": "response", "deleted": True}


def test_conversation_goes_on_after_an_earlier_response_was_deleted(client: openai.OpenAI) -> None:
    first = client.responses.create(model="any", input=QUESTION, temperature=0)
    second = client.responses.create(model="any", input="And of Spain?", previous_response_id=first.id, temperature=0)
    expected = client.responses.create(model="any", input="And of Italy?", previous_response_id=second.id, temperature=0)
    client.responses.delete(first.id)
    again = client.responses.create(model="any", input="And of Italy?", previous_response_id=second.id, temperature=0)
    assert again.output_text == expected.output_text


def test_input_items_are_what_the_model_was_given(client: openai.OpenAI) -> None:
    parts = [{"type": "input_text", "text": QUESTION}, {"type": "input_text", "text": "Be brief."}]
    first = client.responses.create(model="any", input=[{"role": "user", "content": parts}], temperature=0)
    second = client.responses.create(model="any", input="And of Spain?", previous_response_id=first.id, temperature=0)
    items = list(client.responses.input_items.list(second.id, order="asc"))
    assert [(item.type, item.role, [part.text for part in item.content]) for item in items] == [
        ("message", "user", [QUESTION, "Be brief."]),
        ("message", "assistant", [first.output_text]),
        ("message", "user", ["And of Spain?"]),
    ]
    assert items[1].id == first.output[0].id
    assert list(client.responses.input_items.list(second.id)) == items[::-1]
    paged = client.responses.input_items.list(second.id, order="asc", limit=2)
    assert (len(paged.data), paged.has_more) == (2, True)
    assert list(paged) == items, "the client follows the pages"


@pytest.mark.parametrize(
    ("query", "param"),
    [("order=up", "order"), ("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("after=msg_0", "after")],
)
def test_wrong_page_is_refused(http: httpx2.Client, query: str, param: str) -> None:
    answer = http.get(f"/v1/responses/{post(http).json()['id']}/input_items?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_prewarmed_prompt_can_be_continued(http: httpx2.Client) -> None:
    warmed = post(http, prompt_cache_options={"prewarm": True}).json()
    answer = post(http, input=None, previous_response_id=warmed["id"]).json()
    assert answer["output"][0]["content"] == post(http).json()["output"][0]["content"]


def test_only_what_runs_in_the_background_can_be_cancelled(client: openai.OpenAI) -> None:
    done = client.responses.create(model="any", input=QUESTION, max_output_tokens=1)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(done.id)


def test_stored_response_is_not_streamed(http: httpx2.Client) -> None:
    answer = http.get(f"/v1/responses/{post(http).json()['id']}?stream=true")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")


def test_compacting_is_no_endpoint_yet(http: httpx2.Client) -> None:
    answer = http.post("/v1/responses/compact", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unsupported_endpoint")


def test_response_that_is_not_to_be_stored_is_not_there(http: httpx2.Client, server: Served) -> None:
    assert server.service.stored is not None
    before = server.service.stored.num_responses
    answer = post(http, store=False).json()
    assert answer["store"] is False
    assert server.service.stored.num_responses == before
    assert http.get(f"/v1/responses/{answer['id']}").status_code == 404
    refused = post(http, previous_response_id=answer["id"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "previous_response_not_found")


def test_server_that_keeps_nothing_says_so() -> None:
    with served(keeps_responses=False) as running, httpx2.Client(base_url=running.url, timeout=60) as http:
        asked, unasked = post(http, store=True), post(http)
        refused = post(http, previous_response_id=asked.json()["id"])
        found = http.get(f"/v1/responses/{asked.json()['id']}")
    assert [each.json()["store"] for each in (asked, unasked)] == [False, False]
    assert asked.headers["x-quire-ignored"] == "store"
    assert "x-quire-ignored" not in unasked.headers
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "previous_response_not_found")
    assert "keeps no responses" in refused.json()["error"]["message"]
    assert found.status_code == 404
    assert "--no-store" in found.json()["error"]["message"]


def test_response_of_another_key_is_as_unknown_as_none(clients: list[httpx2.Client]) -> None:
    mine, yours = clients
    response_id = post(mine).json()["id"]
    item = [{"id": response_id.replace("resp_", "msg_")}]
    assert [post(each, input=item).status_code for each in (mine, yours)] == [200, 404]
    assert mine.get(f"/v1/responses/{response_id}").status_code == 200
    for path in (f"/v1/responses/{response_id}", f"/v1/responses/{response_id}/input_items"):
        foreign, unknown = yours.get(path), yours.get(path.replace(response_id, "resp_0"))
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.json() == unknown.json()
    for ask in (lambda name: yours.delete(f"/v1/responses/{name}"), lambda name: yours.post(f"/v1/responses/{name}/cancel"),
                lambda name: post(yours, previous_response_id=name)):  # fmt: skip
        assert ask(response_id).status_code == 404
        assert ask(response_id).json() == ask("resp_0").json()
    assert mine.get(f"/v1/responses/{response_id}").status_code == 200


def test_flood_of_one_key_pushes_out_its_own(clients: list[httpx2.Client]) -> None:
    mine, yours = clients
    kept = post(yours).json()["id"]
    first, *_, last = [post(mine, max_output_tokens=1).json()["id"] for _ in range(9)]
    assert yours.get(f"/v1/responses/{kept}").status_code == 200
    assert mine.get(f"/v1/responses/{first}").status_code == 404
    assert mine.get(f"/v1/responses/{last}").status_code == 200


@pytest.mark.parametrize("response_id", ["resp_", "..%2f..%2fetc", "%00", "x" * 5000, "resp_' OR 1=1", "input_tokens"])
def test_odd_ids_lead_nowhere(http: httpx2.Client, response_id: str) -> None:
    assert http.get(f"/v1/responses/{response_id}").status_code == 404
