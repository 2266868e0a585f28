"""The server's OpenAPI file: what it describes is what there is, and what is answered is what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
from schemathesis import GenerationMode
from starlette.routing import Route

from quire.server.endpoints import Endpoints
from quire.server.limits import Limits
from quire.server.openapi import ERRORS, openapi
from quire.server.openapi_operations import OPERATIONS
from quire.server.serving import Access
from support.openapi_checks import check_operation, operations_of, with_ids_below
from support.served import Served, served

KEY = "a-key-of-the-suite"
DOCUMENT = openapi(Limits())
NUM_EXAMPLES = 6


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    with served(access=Access(port=0, keys=(KEY,)), options={"max_context": 256}) as running:
        yield running


@pytest.fixture(scope="module")
def asking(keyed: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=keyed.url, timeout=60, headers={"authorization": f"Bearer {KEY}"}) as client:
        yield client


def test_file_in_the_documentation_is_the_servers(asking: httpx2.Client) -> None:
    written = Path(__file__).parents[2].joinpath("docs/openapi.json").read_text()
    assert json.loads(written) == DOCUMENT, "run: python scripts/write_openapi.py > docs/openapi.json"
    assert asking.get("/openapi.json").json() == DOCUMENT


def test_every_path_and_method_is_described(keyed: Served) -> None:
    routes = [route for route in Endpoints(keyed.service).router().routes if isinstance(route, Route)]
    served_ones = {(route.path.replace(":path", ""), method.lower()) for route in routes for method in route.methods or ()}
    described = {(operation.path, operation.method) for operation in OPERATIONS}
    assert {pair for pair in served_ones if pair[1] != "head"} == described


def test_file_is_read_with_a_key_only(keyed: Served) -> None:
    assert httpx2.get(f"{keyed.url}/openapi.json").status_code == 401


def test_every_status_of_an_error_is_in_the_guide() -> None:
    guide = Path(__file__).parents[2].joinpath("docs/serve.md").read_text()
    table = guide[guide.index("| status | when |") : guide.index("## Who may ask")]
    assert all(str(status) in table for status in ERRORS)


def test_refused_fields_appear_with_the_values_that_ask_for_nothing() -> None:
    properties = DOCUMENT["components"]["schemas"]["ChatCompletionsRequest"]["properties"]
    assert properties["tools"]["enum"] == [None, []]
    assert properties["truncation"]["enum"] == [None, "disabled"]
    assert properties["n"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 64}
    assert "messages" in DOCUMENT["components"]["schemas"]["ChatCompletionsRequest"]["required"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}),
        (
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": "Hi"}],
                "max_tokens": 2,
                "n": 2,
                "logprobs": True,
                "top_logprobs": 2,
                "return_token_ids": True,
                "prompt_logprobs": 1,
            },
        ),
        ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2, "logprobs": 2, "echo": True, "return_token_ids": True}),
        ("/v1/completions", {"prompt": [1, 2], "max_tokens": 0, "prompt_logprobs": 1}),
        ("/v1/score", {"prompt": "a b c", "context": "x", "top_logprobs": 2}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stop_sequences": ["x"]}),
        (
            "/v1/messages",
            {
                "messages": [{"role": "user", "content": "Hi"}],
                "max_tokens": 2,
                "diagnostics": {"previous_message_id": "msg_none"},
            },
        ),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"input": "Hi", "prompt_cache_options": {"comparison_response_id": "resp_none"}}),
        (
            "/v1/responses",
            {"input": "Hi", "max_output_tokens": 2, "include": ["message.output_text.logprobs"], "top_logprobs": 2},
        ),
        ("/v1/responses", {"input": "Hi", "instructions": "Be brief.", "metadata": {"a": "b"}, "user": "x", "store": False}),
        ("/v1/responses/input_tokens", {"input": "Hi"}),
        ("/tokenize", {"prompt": "a", "return_token_strs": True}),
        ("/tokenize", {"content": "a", "with_pieces": True}),
        ("/detokenize", {"tokens": [5]}),
    ],
)
def test_answer_with_everything_is_as_described(asking: httpx2.Client, path: str, fields: dict[str, object]) -> None:
    answer = asking.post(path, json=fields)
    assert answer.status_code == 200, answer.text
    _validate(DOCUMENT["paths"][path]["post"]["responses"]["200"], answer.json())


def test_kept_response_is_as_described(asking: httpx2.Client) -> None:
    response_id = asking.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 2}).json()["id"]
    for method, path in (
        ("get", "/v1/responses/{response_id}"),
        ("get", "/v1/responses/{response_id}/input_items"),
        ("get", "/v1/kv/explain/{response_id}"),
        ("get", "/v1/kv/holdings"),
        ("get", "/v1/kv/ledger"),
        ("get", "/v1/kv/map"),
        ("delete", "/v1/responses/{response_id}"),
    ):
        answer = asking.request(method.upper(), path.format(response_id=response_id))
        described = DOCUMENT["paths"][path.replace("explain/{response_id}", "explain/{answer_id}")][method]
        _validate(described["responses"]["200"], answer.json())


def test_diagnoses_and_explanations_are_as_described(asking: httpx2.Client) -> None:
    text = "Foxes and dogs, one after the other. " * 9
    first = asking.post("/v1/responses", json={"input": text, "max_output_tokens": 1}).json()["id"]
    for earlier in (first, "resp_0"):
        fields = {"input": f"No. {text}", "max_output_tokens": 1, "prompt_cache_options": {"comparison_response_id": earlier}}
        answer = asking.post("/v1/responses", json=fields).json()
        _validate(DOCUMENT["paths"]["/v1/responses"]["post"]["responses"]["200"], answer)
        chat = [{"role": "user", "content": f"Yes. {text}"}]
        fields = {"messages": chat, "max_tokens": 1, "diagnostics": {"previous_message_id": earlier}}
        message = asking.post("/v1/messages", json=fields).json()
        _validate(DOCUMENT["paths"]["/v1/messages"]["post"]["responses"]["200"], message)
    for path, query in (
        ("map", "?limit=9"),
        ("holdings", ""),
        ("ledger", ""),
        ("explain/{answer_id}", f"?compared_with={first}"),
    ):
        found = asking.get(f"/v1/kv/{path.format(answer_id=answer['id'])}{query}")
        _validate(DOCUMENT["paths"][f"/v1/kv/{path}"]["get"]["responses"]["200"], found.json())


def test_errors_have_the_form_of_their_api(asking: httpx2.Client) -> None:
    for path, name in (("/nothing", "OpenAIError404"), ("/v1/messages/nothing", "AnthropicError404")):
        _validate(DOCUMENT["components"]["responses"][name], asking.get(path).json())


def _validate(response: dict[str, Any], answer: object) -> None:
    schema = {**response["content"]["application/json"]["schema"], "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer)


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        (f"{operation.method.upper()} {operation.path}", mode)
        for operation in OPERATIONS
        for mode in (GenerationMode if operation.fields is not None else [GenerationMode.POSITIVE])
    ],
)
def test_requests_made_of_the_file_are_answered_as_it_says(keyed: Served, label: str, mode: GenerationMode) -> None:
    document = with_ids_below(DOCUMENT, keyed.service.vocab_size)
    (operation,) = [each for each in operations_of(document, keyed.url, KEY) if each.label == label]
    check_operation(operation, mode, NUM_EXAMPLES)
