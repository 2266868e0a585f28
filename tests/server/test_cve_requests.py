"""Patterns of this year's CVEs of other servers: fetches by the server, unbounded side routes, nulls beside extremes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import pytest

from quire.server.limits import Limits
from quire.server.serving import Access, Server
from support.asgi_client import Asked, Reply, World, ask, opened_world, posting
from support.audit import watched
from support.request_seeds import ACCEPTED

CHAT, COMPLETION, SCORE = "/v1/chat/completions", "/v1/completions", "/v1/score"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
URL = "http://127.0.0.1:9/secret?x=1"
HI = [{"role": "user", "content": "Hi"}]
NORMAL = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 1, "seed": 2}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with opened_world({"max_context": 256}) as opened:
        for path, fields in (
            (CHAT, {"messages": HI}),
            (COMPLETION, NORMAL),
            (RESPONSES, {"input": "Hi"}),
            (SCORE, {"prompt": "a"}),
        ):
            assert opened.post(path, fields).status == 200  # whatever is loaded at its first use is loaded now
        yield opened


# -- the server fetches nothing, reads no file, runs nothing ----------------------------------------


def part(kind: str, **fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind, **fields}]}], "max_tokens": 1}


def item(kind: str, **fields: object) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [{"type": kind, **fields}]}]}


FETCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "lmdeploy_cve_2026_33626_image_url": (CHAT, part("image_url", image_url={"url": URL})),
    "lmdeploy_cve_2026_33626_image_of_cloud_metadata": (CHAT, part("image_url", image_url={"url": "http://169.254.169.254/latest/"})),
    "localai_cve_2026_59707_file_url": (CHAT, part("image_url", image_url={"url": "file:///etc/passwd"})),
    "localai_cve_2026_59707_video_url": (CHAT, part("video_url", video_url={"url": URL})),
    "ollama_cve_2026_108836_file_id": (CHAT, part("file", file={"file_id": "../../etc/passwd"})),
    "ollama_cve_2026_108836_input_file": (RESPONSES, item("input_file", file_url=URL)),
    "vllm_cve_2026_100650_audio_url": (CHAT, part("audio_url", audio_url={"url": URL})),
    "vllm_cve_2026_100650_input_audio": (CHAT, part("input_audio", input_audio={"data": "AAAA", "format": "wav"})),
    "image_of_a_message": (MESSAGES, part("image", source={"type": "url", "url": URL})),
    "document_of_a_message": (MESSAGES, part("document", source={"type": "url", "url": URL})),
    "image_of_a_response": (RESPONSES, item("input_image", image_url=URL)),
    "hosted_tool": (RESPONSES, {"input": "x", "tools": [{"type": "mcp", "server_url": URL}], "tool_choice": {"type": "mcp"}}),
    "pickled_embeddings": (COMPLETION, {"prompt": "x", "prompt_embeds": "gASVCAAAAAAAAACMBHBvc2l4lIwGc3lzdGVt"}),
    "transfer_of_blocks": (COMPLETION, {"prompt": "x", "kv_transfer_params": {"remote_host": "127.0.0.1", "remote_port": 9}}),
    "processors_of_logits": (COMPLETION, {"prompt": "x", "logits_processors": ["os.system"]}),
}  # fmt: skip
IGNORED: dict[str, tuple[str, dict[str, Any]]] = {
    "model_that_is_a_url": (COMPLETION, {"prompt": "x", "model": URL}),
    "model_that_is_a_path": (COMPLETION, {"prompt": "x", "model": "/etc/passwd"}),
    "adapter": (COMPLETION, {"prompt": "x", "lora_path": "/etc", "lora_request": {"path": URL}}),
    "web_search": (CHAT, {"messages": HI, "web_search_options": {"user_location": {"url": URL}}}),
    "hooks": (CHAT, {"messages": HI, "webhook": URL, "callback_url": URL, "metadata": {"url": URL}}),
    "media_paths": (CHAT, {"messages": HI, "mm_processor_kwargs": {"path": "/etc"}, "media_io_kwargs": {"url": URL}}),
    "urls_in_text": (CHAT, {"messages": [{"role": "user", "content": f"![x]({URL}) <img src='{URL}'>"}]}),
}


@pytest.mark.parametrize("name", [*FETCHES, *IGNORED])
def test_no_request_makes_the_server_fetch_read_or_run_anything(world: World, name: str) -> None:
    path, fields = (FETCHES | IGNORED)[name]
    with watched() as events:
        reply = world.post(path, {**fields, "max_output_tokens" if path == RESPONSES else "max_tokens": 1})
    assert events == []
    assert reply.status == (400 if name in FETCHES else 200), reply.body
    assert URL.encode() not in reply.body


def test_watching_sees_what_happens(tmp_path: object) -> None:
    import pickle
    import socket

    with watched() as events, socket.socket() as connection:
        connection.connect_ex(("127.0.0.1", 9))
        pickle.loads(pickle.dumps(Limits))  # noqa: S301 - our own
        open(f"{tmp_path}/x", "w").close()
    assert {event.split()[0] for event in events} >= {"socket.connect", "pickle.find_class", "open"}


# -- side routes are bounded ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/detokenize", {"tokens": [5] * 262_145}),
        ("/detokenize", {"tokens": [[5]] * 10}),
        ("/v1/messages/count_tokens", {"messages": HI * 5000}),
        ("/v1/responses/input_tokens", {"input": [{"role": "user", "content": "x"}] * 5000}),
        ("/tokenize", {"messages": HI * 5000}),
        (SCORE, {"prompt": [5] * 1_000_000}),
        (SCORE, {"prompt": "a", "context": [5] * 1_000_000}),
    ],
)
def test_vllm_cve_2026_71486_side_routes_have_limits(world: World, path: str, fields: dict[str, Any]) -> None:
    """Also SGLang's CVE-2026-110807 and CVE-2026-110809."""
    assert world.post(path, fields).status == 400


def test_vllm_cve_2026_71486_large_side_requests_leave_the_loop_to_others(world: World) -> None:
    large = [posting("/tokenize", {"prompt": "word " * 200_000}), posting("/detokenize", {"tokens": [5] * 200_000})]
    order: list[str] = []

    async def timed(name: str, asked: Asked) -> Reply:
        reply = await ask(world.app, asked)
        order.append(name)
        return reply

    replies = world.run(*(timed("large", each) for each in large * 2), timed("health", Asked(method="GET", path="/health")))
    assert order[0] == "health"
    assert {reply.status for reply in replies} == {200}


def test_sglang_cve_2026_110807_jobs_that_wait_are_bounded() -> None:
    large = posting("/tokenize", {"prompt": "word " * 20_000})
    with opened_world({"max_context": 256}, limits=Limits(worker_jobs=3)) as small:
        statuses = sorted(reply.status for reply in small.ask(*[large] * 12))
        assert statuses == [200] * 3 + [429] * 9
        assert small.ask(large)[0].status == 200


SIDE = {
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [5]},
    "/v1/messages/count_tokens": {"messages": HI},
    "/v1/responses/input_tokens": {"input": "x"},
    SCORE: {"prompt": "x"},
    COMPLETION: NORMAL,
}


@pytest.mark.parametrize("path", SIDE)
def test_llama_cpp_cve_2026_43632_nothing_is_computed_while_the_server_ends(path: str) -> None:
    with opened_world({"max_context": 256}) as ending:
        ending.service.begin_drain()
        reply = ending.post(path, SIDE[path])
    assert reply.status == 503
    assert "retry-after" in reply.headers


@pytest.mark.parametrize("path", SIDE)
def test_llama_cpp_cve_2026_43632_nothing_is_computed_while_the_model_loads(world: World, path: str) -> None:
    app = Server(None, Access(), shutdown_timeout_s=0.0).config.app
    (reply,) = world.run(ask(app, posting(path, SIDE[path])))
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")


# -- several prompts, nulls and extremes --------------------------------------------------------------


def test_vllm_cve_2026_94623_prompts_of_different_lengths_are_answered_as_alone(world: World) -> None:
    prompts: list[Any] = ["a", "a " * 100, [5], [6] * 200, "Once upon a time"]
    wish = {"max_tokens": 5, "temperature": 0, "logprobs": 1, "echo": True}
    together = world.post(COMPLETION, {**wish, "prompt": prompts}).content["choices"]
    alone = [world.post(COMPLETION, {**wish, "prompt": prompt}).content["choices"][0] for prompt in prompts]
    assert [{**choice, "index": 0} for choice in together] == alone
    assert world.post(COMPLETION, {**wish, "prompt": [*prompts, "a " * 300]}).status == 400, "one of them does not fit"
    assert world.post(COMPLETION, {**wish, "prompt": [*prompts, ""]}).status == 400


@pytest.mark.parametrize("min_tokens", [0, 1, 255, 256, 2**31, 2**62])
@pytest.mark.parametrize("max_tokens", [None, 1, 2**31])
def test_vllm_cve_2026_114051_least_length_beside_a_null_one(world: World, min_tokens: int, max_tokens: int | None) -> None:
    reply = world.post(COMPLETION, {"prompt": "a", "min_tokens": min_tokens, "max_tokens": max_tokens, "stream": False})
    assert reply.status in (200, 400)
    assert world.post(COMPLETION, NORMAL).status == 200, "whatever reads requests is alive"
    assert world.service.trouble is None


@pytest.mark.parametrize("n", [65, 2**31, 2**63, -1, 0, 10**19])
def test_vllm_cve_2026_34756_no_more_choices_than_the_limit(world: World, n: int) -> None:
    for path, fields in ((CHAT, {"messages": HI}), (COMPLETION, {"prompt": "a"})):
        assert world.post(path, {**fields, "n": n, "max_tokens": 1}).status == 400
    assert world.post(COMPLETION, {"prompt": ["a"] * 256, "n": 3, "max_tokens": 1}).status == 400


@pytest.mark.parametrize("path", [CHAT, COMPLETION, MESSAGES, RESPONSES])
def test_vllm_cve_2026_9540_nulls_beside_extremes_over_all_pairs_of_fields(world: World, path: str) -> None:
    good = {CHAT: {"messages": HI}, COMPLETION: {"prompt": "a"}, MESSAGES: {"messages": HI}, RESPONSES: {"input": "a"}}[path]
    length = "max_output_tokens" if path == RESPONSES else "max_tokens"
    names = [name for name in ACCEPTED if name not in (*good, "content", "context", "tokens", "n")]
    pairs = [pair for pair in combinations(names, 2) if hash_of(pair) % 8 == len(path) % 8]
    wishes = [{**good, length: 1, first: one, second: other} for first, second in pairs for one, other in ends_of(first, second)]
    expected = world.post(COMPLETION, NORMAL).content["choices"]
    for start in range(0, len(wishes), 64):
        replies = world.ask(*(posting(path, wish) for wish in wishes[start : start + 64]))
        unfit = [(reply.status, wish) for reply, wish in zip(replies, wishes[start:], strict=False) if reply.status >= 500]
        assert unfit == []
    assert world.post(COMPLETION, NORMAL).content["choices"] == expected


def ends_of(first: str, second: str) -> list[tuple[Any, Any]]:
    """Returns null beside the last value that each field takes, and both of these."""
    return [each for each in product((None, ACCEPTED[first][-1]), (None, ACCEPTED[second][-1])) if each != (None, None)]


def hash_of(pair: tuple[str, str]) -> int:
    return sum(map(ord, "".join(pair)))
