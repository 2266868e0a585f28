"""`/v1/messages` with the official client, compared with `LLM.chat`."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import httpx2
import pytest

from quire.engine.llm import LLM
from quire.sampling import SamplingParams
from support.agent import agent_request
from support.served import Served, served

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Tell me about the sea."}]
BRIEF = [{"role": "system", "content": "You are brief."}]
TOPICS = ("the sea", "a cat", "Paris", "numbers", "snow", "a river", "music", "bread")


def post(http: httpx2.Client, **fields: object) -> httpx2.Response:
    return http.post("/v1/messages", json={"messages": QUESTION, "temperature": 0, "max_tokens": 8, **fields})


def text_of(message: anthropic.types.Message) -> str:
    (block,) = message.content
    assert block.type == "text"
    return block.text


def num_prompt(usage: anthropic.types.Usage) -> int:
    return usage.input_tokens + (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21", "tomorrow"])
def test_answer_is_that_of_the_library_whatever_the_version(
    anthropic_client: anthropic.Anthropic, llm: LLM, version: str
) -> None:
    headers = {"anthropic-version": version, "anthropic-beta": "one-2025-01-01,two"}
    answer = anthropic_client.messages.create(
        model="any", system="You are brief.", messages=QUESTION, max_tokens=30, extra_headers=headers,
        extra_body={"temperature": 0},
    )  # fmt: skip
    (expected,) = llm.chat([*BRIEF, *QUESTION], SamplingParams(temperature=0, max_tokens=30))
    assert text_of(answer) == expected.outputs[0].text
    assert (answer.model, answer.stop_reason, answer.stop_sequence) == ("bundled", "end_turn", None)
    assert answer.id.startswith("msg_")
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")
    assert (num_prompt(answer.usage), answer.usage.output_tokens) == (
        len(expected.prompt_token_ids),
        len(expected.outputs[0].token_ids),
    )


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_stream_joined_is_the_whole_answer_and_the_librarys(
    anthropic_client: anthropic.Anthropic, llm: LLM, temperature: float
) -> None:
    wish: dict[str, Any] = {"model": "any", "system": "You are brief.", "messages": STORY, "max_tokens": 60}
    draw = {"temperature": temperature, "seed": 7}
    whole = anthropic_client.messages.create(**wish, extra_body=draw)
    events = list(anthropic_client.messages.create(**wish, extra_body=draw, stream=True))
    with anthropic_client.messages.stream(**wish, extra_body=draw) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    joined = "".join(
        event.delta.text for event in events if event.type == "content_block_delta" and event.delta.type == "text_delta"
    )
    (expected,) = llm.chat([*BRIEF, *STORY], SamplingParams(temperature=temperature, seed=7, max_tokens=60))
    assert joined == "".join(pieces) == text_of(final) == text_of(whole) == expected.outputs[0].text
    assert final.stop_reason == whole.stop_reason
    assert num_prompt(final.usage) == num_prompt(whole.usage) == len(expected.prompt_token_ids)
    assert final.usage.output_tokens == whole.usage.output_tokens == len(expected.outputs[0].token_ids)


def test_sixteen_at_once_get_the_bits_of_each_alone(server: Served, llm: LLM) -> None:
    chats = [[{"role": "user", "content": f"Tell me about {topic}."}] for topic in TOPICS]
    wishes = [{"temperature": 0.7 * (idx % 2), "seed": idx} for idx in range(len(chats))]

    async def ask() -> list[str]:
        async with anthropic.AsyncAnthropic(
            base_url=server.url, api_key="none", max_retries=0, _strict_response_validation=True
        ) as client:

            async def whole(chat: Any, wish: dict[str, float]) -> str:
                return text_of(await client.messages.create(model="any", messages=chat, max_tokens=40, extra_body=wish))

            async def streamed(chat: Any, wish: dict[str, float]) -> str:
                async with client.messages.stream(model="any", messages=chat, max_tokens=40, extra_body=wish) as stream:
                    return "".join([text async for text in stream.text_stream])

            return await asyncio.gather(*(ask(*each) for ask in (whole, streamed) for each in zip(chats, wishes, strict=True)))

    expected = [
        llm.chat(chat, SamplingParams(**wish, max_tokens=40))[0].outputs[0].text for chat, wish in zip(chats, wishes, strict=True)
    ]
    assert asyncio.run(ask()) == expected * 2


def test_client_of_the_beta_is_answered_too(anthropic_client: anthropic.Anthropic) -> None:
    wish: dict[str, Any] = {"model": "any", "messages": STORY, "max_tokens": 12, "betas": ["context-management-2025-06-27"]}
    whole = anthropic_client.beta.messages.create(**wish, extra_body={"temperature": 0})
    with anthropic_client.beta.messages.stream(**wish, extra_body={"temperature": 0}) as stream:
        assert [block.to_dict() for block in stream.get_final_message().content] == [block.to_dict() for block in whole.content]
    count = anthropic_client.beta.messages.count_tokens(model="any", messages=STORY)
    assert count.input_tokens == num_prompt(whole.usage)  # type: ignore[arg-type]


def test_begin_of_the_message_tells_what_the_cache_held(anthropic_client: anthropic.Anthropic) -> None:
    messages: Any = [{"role": "user", "content": "There were these numbers: " + " ".join(map(str, range(60)))}]
    wish: dict[str, Any] = {"model": "any", "messages": messages, "max_tokens": 4, "extra_body": {"cache_salt": "begin"}}
    usages = []
    for _ in range(2):
        first, *_, delta, _stop = anthropic_client.messages.create(**wish, stream=True)
        assert first.type == "message_start"
        assert delta.type == "message_delta"
        usages.append(first.message.usage)
        assert first.message.usage.output_tokens == 0
        assert num_prompt(delta.usage) == num_prompt(first.message.usage)  # type: ignore[arg-type]
        assert delta.usage.output_tokens > 0
    written, read = usages
    assert num_prompt(written) == num_prompt(read)
    assert (written.cache_read_input_tokens, written.cache_creation_input_tokens) == (0, num_prompt(written) // 32 * 32)
    assert (read.cache_read_input_tokens, read.cache_creation_input_tokens) == (num_prompt(written) - 1, 0)
    whole = anthropic_client.messages.create(**wish)
    assert whole.usage.cache_read_input_tokens == read.cache_read_input_tokens


def test_second_turn_of_an_agent_reuses_the_first(http: httpx2.Client, anthropic_client: anthropic.Anthropic) -> None:
    """Its account header and its marks differ in every request; neither reaches the prompt."""
    questions = ["What is the capital of France?", "And what is the capital of Italy?"]
    answers: list[str] = []
    usages = []
    for turn in range(2):
        body = agent_request(questions[: turn + 1], answers, temperature=0, max_tokens=24)
        del body["stream"]
        with anthropic_client.messages.stream(**_of_client(body)) as stream:
            message = stream.get_final_message()
        answers.append(text_of(message))
        usages.append(message.usage)
    computed = num_prompt(usages[0]) + usages[0].output_tokens - 1  # the last token was drawn and not computed
    assert usages[1].cache_read_input_tokens == computed
    assert (usages[1].cache_read_input_tokens or 0) >= 96
    ignored = http.post("/v1/messages?beta=true", json=agent_request(questions[:1], [], max_tokens=4)).headers["x-quire-ignored"]
    assert ignored == (
        "metadata, context_management, thinking, system.cache_control, system.x-anthropic-billing-header, "
        "messages.content.cache_control"
    )


def _of_client(body: dict[str, Any]) -> dict[str, Any]:
    """Returns a body as arguments of the client, which does not know some of its fields."""
    extra = {name: body.pop(name) for name in ("temperature", "context_management")}
    return {**body, "extra_body": extra}


def test_account_header_and_marks_do_not_change_the_tokens(http: httpx2.Client) -> None:
    plain = {"system": "Be brief.\nBe kind.", "messages": QUESTION}
    decorated = {
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=abcde;"},
            {"type": "text", "text": "Be brief.\nBe kind.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ],
        "messages": [
            {
                "role": "user",
                "id": "m-1",
                "content": [{"type": "text", "text": QUESTION[0]["content"], "cache_control": {"type": "ephemeral"}}],
            }
        ],
        "cache_control": {"type": "ephemeral"},
        "metadata": {"user_id": "x"},
    }
    in_one = {**plain, "system": f"x-anthropic-billing-header: cch=fffff;\n{plain['system']}"}
    inline = {"messages": [{"role": "system", "content": decorated["system"]}, *QUESTION]}
    answers = [post(http, **fields).json() for fields in (plain, decorated, in_one, inline)]
    assert len({str((answer["content"], sum(_counts(answer)))) for answer in answers}) == 1
    counts = [http.post("/v1/messages/count_tokens", json=fields).json() for fields in (plain, decorated, in_one, inline)]
    assert counts == [{"input_tokens": sum(_counts(answers[0]))}] * 4


def _counts(answer: dict[str, Any]) -> list[int]:
    return [answer["usage"][f"{name}input_tokens"] for name in ("", "cache_creation_", "cache_read_")]


def test_stop_sequence_ends_the_message_and_is_named(anthropic_client: anthropic.Anthropic) -> None:
    wish: dict[str, Any] = {"model": "any", "messages": QUESTION, "max_tokens": 30, "extra_body": {"temperature": 0}}
    text = text_of(anthropic_client.messages.create(**wish))
    stop = text[5:9]
    whole = anthropic_client.messages.create(**wish, stop_sequences=["no such text", stop])
    with anthropic_client.messages.stream(**wish, stop_sequences=["no such text", stop]) as stream:
        streamed = stream.get_final_message()
    for answer in (whole, streamed):
        assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)
        assert text_of(answer) == text[: text.index(stop)]


def test_end_by_length_says_whether_the_context_was_the_reason(http: httpx2.Client, server: Served) -> None:
    short = post(http, max_tokens=2)
    assert (short.json()["stop_reason"], short.json()["usage"]["output_tokens"]) == ("max_tokens", 2)
    assert "x-quire-max-tokens" not in short.headers
    long = post(http, max_tokens=32_000, ignore_eos=True, messages=[{"role": "user", "content": "word " * 1900}])
    num_left = server.service.max_context - sum(_counts(long.json()))
    assert long.headers["x-quire-max-tokens"] == f"{num_left}; requested=32000"
    assert (long.json()["stop_reason"], long.json()["usage"]["output_tokens"]) == ("model_context_window_exceeded", num_left)


def test_answer_goes_on_where_the_assistant_stopped(anthropic_client: anthropic.Anthropic, server: Served, llm: LLM) -> None:
    begun: Any = [*QUESTION, {"role": "assistant", "content": [{"type": "text", "text": "Paris is"}]}]
    frontend = server.service.engine.frontend
    prompt = frontend.encoded(frontend.unfinished_chat_text([*QUESTION, {"role": "assistant", "content": "Paris is"}], {}))
    answer = anthropic_client.messages.create(model="any", messages=begun, max_tokens=20, extra_body={"temperature": 0})
    (expected,) = llm.generate([list(prompt.token_ids)], SamplingParams(temperature=0, max_tokens=20))
    assert text_of(answer) == expected.outputs[0].text
    count = anthropic_client.messages.count_tokens(model="any", messages=begun)
    assert num_prompt(answer.usage) == count.input_tokens == len(prompt.token_ids)


def test_no_tokens_at_all_computes_the_prompt_for_the_next_request(http: httpx2.Client) -> None:
    messages = [{"role": "user", "content": "Remember these words: " + "sea snow bread music " * 20}]
    for is_streamed in (False, True):
        assert post(http, messages=messages, max_tokens=0, stream=is_streamed).status_code == 200
    warm = post(http, messages=messages, max_tokens=0).json()
    assert (warm["content"], warm["stop_reason"]) == ([{"type": "text", "text": ""}], "max_tokens")
    assert warm["usage"]["output_tokens"] == 0
    assert post(http, messages=messages).json()["usage"]["cache_read_input_tokens"] >= 64


def test_empty_answer_is_one_empty_text(http: httpx2.Client, anthropic_client: anthropic.Anthropic) -> None:
    text = post(http).json()["content"][0]["text"]
    wish: dict[str, Any] = {"model": "any", "messages": QUESTION, "max_tokens": 8, "stop_sequences": [text[:3]]}
    assert post(http, stop_sequences=[text[:3]]).json()["content"] == [{"type": "text", "text": ""}]
    with anthropic_client.messages.stream(**wish, extra_body={"temperature": 0}) as stream:
        assert text_of(stream.get_final_message()) == ""


def test_seed_that_the_server_drew_gives_the_answer_again(http: httpx2.Client) -> None:
    first = post(http, temperature=1, messages=STORY)
    again = post(http, temperature=1, messages=STORY, seed=int(first.headers["x-quire-seed"]))
    assert again.json()["content"] == first.json()["content"]
    assert post(http, temperature=None, messages=STORY).headers["x-quire-seed"]


def test_models_are_listed_for_the_client(anthropic_client: anthropic.Anthropic, server: Served) -> None:
    (model,) = anthropic_client.models.list()
    assert (model.id, model.type, model.lifecycle) == ("bundled", "model", "active")
    assert model.max_input_tokens == server.service.max_context - 1
    assert anthropic_client.models.retrieve("bundled") == model


def test_chosen_names_are_the_only_ones_and_unknown_ones_are_not_found() -> None:
    with (
        served(names=("claude-local", "two")) as running,
        anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0) as client,
    ):
        answer = client.messages.create(model="two", messages=STORY, max_tokens=1)
        with pytest.raises(anthropic.NotFoundError, match="claude-local, two") as caught:
            client.messages.create(model="claude-opus-4-6", messages=STORY, max_tokens=1)
        with pytest.raises(anthropic.NotFoundError):
            client.messages.count_tokens(model="claude-opus-4-6", messages=STORY)
    assert answer.model == "two"
    assert (caught.value.type, caught.value.error_code) == ("not_found_error", "model_not_found")
