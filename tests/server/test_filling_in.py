"""`suffix` and ready prompts of editors: the tokens around a gap, as the model was trained with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tokenizers import AddedToken

from quire.engine.llm import LLM
from quire.sampling import SamplingParams
from quire.server.errors import ApiError
from quire.server.fill_in import ends_of, gap_tokens, with_suffix
from support.bundled_variants import GAP, with_gap_tokens
from support.served import served
from support.tiny_tokenizers import byte_level, byte_level_backend, wrapped

BEFORE, BEHIND = "def area(width):\n    return ", "\n\nprint(area(2))\n"
READY = f"{GAP[0]}{BEFORE}{GAP[1]}{BEHIND}{GAP[2]}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_gap_tokens(tmp_path_factory.mktemp("code"))


@pytest.fixture(scope="module")
def code(model: Path) -> Iterator[httpx2.Client]:
    with served(model) as running, httpx2.Client(base_url=running.url, timeout=60) as client:
        yield client


def post(client: httpx2.Client, **fields: object) -> httpx2.Response:
    return client.post("/v1/completions", json={"temperature": 0, "max_tokens": 12, **fields})


def test_suffix_is_the_ready_prompt_and_what_the_library_makes_of_it(code: httpx2.Client, model: Path) -> None:
    filled, ready = post(code, prompt=BEFORE, suffix=BEHIND, return_token_ids=True), post(code, prompt=READY)
    assert (filled.status_code, ready.status_code) == (200, 200)
    with LLM(model, threads=1, kv_memory="64MiB") as llm:
        (expected,) = llm.generate([READY], SamplingParams(temperature=0, max_tokens=12))
    assert filled.json()["choices"][0]["text"] == ready.json()["choices"][0]["text"] == expected.outputs[0].text
    ids = filled.json()["choices"][0]["prompt_token_ids"]
    assert ids == list(expected.prompt_token_ids)
    assert [ids.count(each) for each in (1, 2, 3)] == [1, 1, 1], "the tokens around the gap are tokens"


def test_no_suffix_is_a_plain_prompt(code: httpx2.Client) -> None:
    plain = post(code, prompt=BEFORE).json()["choices"]
    assert (
        post(code, prompt=BEFORE, suffix="").json()["choices"]
        == post(code, prompt=BEFORE, suffix=None).json()["choices"]
        == plain
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": 5}, "suffix"),
        ({"prompt": "a", "stop_token_ids": "x"}, "stop_token_ids"),
        ({"prompt": "a", "suffix": "word " * 3000}, None),
    ],
)
def test_what_cannot_be_filled_in_is_refused_by_name(code: httpx2.Client, fields: dict[str, object], param: str | None) -> None:
    answer = post(code, **{"suffix": "b", **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_model_without_such_tokens_refuses_a_suffix(http: httpx2.Client) -> None:
    answer = post(http, prompt=BEFORE, suffix=BEHIND)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_suffix")


@pytest.mark.parametrize(
    "tokens",
    [
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
        ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    ],
)
def test_every_spelling_is_found_and_encoded_as_tokens(tokens: tuple[str, str, str]) -> None:
    backend = byte_level_backend()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (*tokens, "\u2581<EOT>")])
    tokenizer = wrapped(backend)
    ids = tokenizer.encode(with_suffix("The capital", "Paris.", tokenizer))
    marks = [tokenizer.id_of(token) for token in tokens]
    assert [token_id for token_id in ids if token_id in marks] == marks
    assert ends_of(tokenizer) == [tokenizer.id_of("\u2581<EOT>")]


def test_a_part_of_the_tokens_is_none() -> None:
    backend = byte_level_backend()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<fim_prefix>", "<fim_middle>")])
    assert gap_tokens(wrapped(backend)) is None
    with pytest.raises(ApiError, match="suffix needs a model"):
        with_suffix("a", "b", byte_level())
