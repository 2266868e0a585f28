"""The parts of `AsyncEngine`'s calls, as a server uses them one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from quire import LLM, AsyncEngine, SamplingParams
from quire.engine.options import EngineOptions
from quire.engine.readers import FinalOutputs
from quire.errors import PromptTooLongError
from quire.request import RequestOutput

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def engine() -> Iterator[AsyncEngine]:
    engine = AsyncEngine(threads=1, kv_memory="16MiB")
    yield engine
    asyncio.run(engine.close())


async def followed(engine: AsyncEngine, *, tenant: str = "") -> RequestOutput:
    prompt = engine.frontend.chat_prompt(MESSAGES * 9, {})
    groups = engine.check([engine.frontend.submission(prompt, GREEDY, tenant=tenant)])
    (output,) = (await engine.follow(groups, FinalOutputs([groups[0].request_id])).until_ready()).take()
    return output


def test_parts_together_are_a_chat(engine: AsyncEngine) -> None:
    with LLM(threads=1, kv_memory="16MiB") as llm:
        (expected,) = llm.chat(MESSAGES * 9, GREEDY)
    output = asyncio.run(followed(engine))
    assert output.outputs[0].token_ids == expected.outputs[0].token_ids
    assert output.prompt_token_ids == expected.prompt_token_ids


def test_tenants_share_no_blocks(engine: AsyncEngine) -> None:
    first, again, other = (asyncio.run(followed(engine, tenant=tenant)).num_cached_tokens for tenant in ("a", "a", "b"))
    assert (first, other) == (0, 0)
    assert again > 0


def test_what_is_refused_never_begins(engine: AsyncEngine) -> None:
    prompt = engine.frontend.chat_prompt([{"role": "user", "content": "word " * 5000}], {})
    with pytest.raises(PromptTooLongError):
        engine.check([engine.frontend.submission(prompt, GREEDY)])


def test_leaving_ends_what_runs(engine: AsyncEngine) -> None:
    async def left() -> None:
        params = SamplingParams(temperature=0, max_tokens=1900, ignore_eos=True)
        groups = engine.check([engine.frontend.prompt("Hi", params, 0)])
        engine.follow(groups, FinalOutputs([groups[0].request_id]))
        while not engine.core.has_work:
            await asyncio.sleep(0.001)
        engine.leave(groups)
        while engine.core.has_work:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(left(), 60))


def test_prompt_of_a_chat_can_end_without_the_start_of_an_answer(engine: AsyncEngine) -> None:
    whole = engine.frontend.chat_prompt(MESSAGES, {}).token_ids
    without = engine.frontend.chat_prompt(MESSAGES, {}, add_generation_prompt=False).token_ids
    assert without == whole[: len(without)]
    assert len(without) < len(whole)


def test_frontend_knows_what_its_template_reads(engine: AsyncEngine) -> None:
    assert not any(map(engine.frontend.template_reads, ("enable_thinking", "tools", "documents")))


def test_pulse_of_the_engine_thread() -> None:
    engine = AsyncEngine(threads=1, kv_memory="16MiB")
    assert engine.is_alive
    asyncio.run(followed(engine))
    asyncio.run(engine.close())
    assert not engine.is_alive
    assert engine.step_s == 0.0


def test_fingerprint_names_weights_and_formats() -> None:
    fingerprints = []
    options: list[EngineOptions] = [
        {"kv_format": "float32"},
        {"kv_format": "float32"},
        {"kv_format": "bfloat16"},
        {"kv_cache": "off"},
    ]
    for each in options:
        engine = AsyncEngine(threads=1, kv_memory="16MiB", **each)
        fingerprints.append(engine.fingerprint)
        asyncio.run(engine.close())
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert None not in fingerprints[:3]
    assert fingerprints[3] is None
