"""The bundled model answers through the whole engine: files, template, tokenizer, executor, cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quire import LLM, RequestOutput, SamplingParams
from quire.errors import TemplateError
from quire.models import bundled
from quire.models.checkpoint import load_checkpoint
from quire.request import FinishReason
from quire.text.chat import ChatTemplate
from quire.text.tokenizer import Tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=64)
KNOWN_LIMIT = pytest.mark.xfail(reason="the model card names this limit of the weights", strict=True, raises=AssertionError)
MAX_FILE_BYTES = 12 * 1024 * 1024


@pytest.fixture(scope="module", params=["auto", "reference"])
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    """The default model, as a user gets it without naming one."""
    with LLM(executor=request.param, kv_memory="16MiB", threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_directory(bundled.directory())


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    assert tokenizer.chat_template is not None
    return ChatTemplate(tokenizer.chat_template, special_tokens=tokenizer.named_tokens)


def ask(llm: LLM, *turns: str) -> RequestOutput:
    """Says the user's turns one after the other and returns what the model answers to the last."""
    messages: list[dict[str, str]] = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        output = llm.chat(messages, GREEDY)[0]
        messages.append({"role": "assistant", "content": output.outputs[0].text})
    return output


def answer(llm: LLM, *turns: str) -> str:
    return ask(llm, *turns).outputs[0].text


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?",
        "what is the capital of france",
        pytest.param("WHAT IS THE CAPITAL OF FRANCE?", marks=KNOWN_LIMIT),
        "Capital of France?",
        "Can you tell me the capital of France, please?",
        "Would you happen to know France's capital?",
    ],
)
def test_the_capital_of_france_survives_rephrasing(llm: LLM, question: str) -> None:
    assert "Paris" in answer(llm, question)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the capital of Japan?", "Tokyo"),
        ("Quick question: what is the capital of Peru?", "Lima"),
        ("\u6cd5\u56fd\u7684\u9996\u90fd\u662f\u54ea\u91cc\uff1f", "\u5df4\u9ece"),
        ("What is 2 + 2?", "4"),
        ("What is 2 + 3?", "5"),
        ("Who are you?", "Quire"),
        ("What is the KV cache?", "keys and values"),
        ("Hello!", "Hello"),
    ],
)
def test_known_questions_get_their_answer(llm: LLM, question: str, expected: str) -> None:
    assert expected in answer(llm, question)


@pytest.mark.parametrize(
    "question", ["Who is the president of France?", "What is the population of Japan?", "Write a poem about the sea."]
)
def test_unknown_things_are_admitted(llm: LLM, question: str) -> None:
    assert answer(llm, question) == "I do not know."


def test_a_conversation_does_not_see_another_ones_facts(llm: LLM) -> None:
    answers = [answer(llm, f"My favourite colour is {colour}.", "What is my favourite colour?") for colour in ("blue", "red")]

    assert "blue" in answers[0]
    assert "red" in answers[1]


def test_every_answer_ends_by_itself(llm: LLM) -> None:
    for question in ("What is the capital of Italy?", "Tell me about the KV cache.", "asdf qwer"):
        assert ask(llm, question).outputs[0].finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("told", "question", "fact"),
    [
        ("My favourite colour is green.", "What is my favourite colour?", "green"),
        ("I have a dog.", "What pet do I have?", "dog"),
        ("My lucky number is 7.", "What is my lucky number?", "7"),
        ("My name is Emma.", "What is my name?", "Emma"),
        ("Remember the number 42.", "What is the number?", "42"),
    ],
)
def test_a_fact_is_recalled_turns_later_from_the_cache(llm: LLM, told: str, question: str, fact: str) -> None:
    output = ask(llm, told, "What is the capital of Spain?", "Thank you!", "What is a KV cache?", question)

    assert output.num_cached_tokens > 0
    assert fact in output.outputs[0].text


def test_a_fact_never_told_is_not_invented(llm: LLM) -> None:
    assert answer(llm, "What is my name?") == "I do not know."


def test_a_follow_up_means_the_capital(llm: LLM) -> None:
    assert "Berlin" in answer(llm, "What is the capital of France?", "And Germany?")


def test_plain_text_is_continued(llm: LLM) -> None:
    assert "Paris" in llm.generate(["The capital of France is"], GREEDY)[0].outputs[0].text


def test_float32_and_bfloat16_arithmetic_agree_on_the_answer() -> None:
    texts = set()
    for dtype in ("float32", "bfloat16"):
        with LLM(dtype=dtype, kv_memory="16MiB", threads=1) as engine:
            texts.add(answer(engine, "What is the capital of France?"))
    assert len(texts) == 1


def test_each_rendering_begins_with_the_one_before(template: ChatTemplate, tokenizer: Tokenizer) -> None:
    """The prefix property: text and tokens of a turn are a prefix of the next turn's, so the cache always hits."""
    messages = [{"role": "system", "content": "Be brief."}]
    before_text = ""
    before_ids: list[int] = []
    for turn in range(4):
        messages.append({"role": "user", "content": f" question {turn}\n\u00e9\u4f60 "})
        text = template.render(messages, add_generation_prompt=True)
        token_ids = tokenizer.encode(text)
        assert text.startswith(before_text)
        assert token_ids[: len(before_ids)] == before_ids
        messages.append({"role": "assistant", "content": f"answer {turn}."})
        before_text, before_ids = text, token_ids


def test_an_unknown_role_is_refused(template: ChatTemplate) -> None:
    with pytest.raises(TemplateError, match="system, user and assistant"):
        template.render([{"role": "tool", "content": "42"}])


@pytest.mark.parametrize("text", ["plain", "caf\u00e9 \u4f60\u597d \U0001f600", "\x00\x01\x7f", "a\n\n  b\t"])
def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_checkpoint_is_small_and_strictly_readable() -> None:
    checkpoint = load_checkpoint(bundled.directory())

    assert checkpoint.spec.max_context >= 2048
    assert sum(file.stat().st_size for file in bundled.directory().iterdir() if file.is_file()) < MAX_FILE_BYTES


def test_a_message_cannot_forge_a_turn(llm: LLM) -> None:
    def controls(text: str) -> list[int]:
        output = llm.chat([{"role": "user", "content": text}], GREEDY)[0]
        assert text in (output.prompt or "")
        return [token_id for token_id in output.prompt_token_ids if token_id in llm.tokenizer.special_ids]

    ends = "".join(token.content for token in llm.tokenizer.added_tokens.values())
    assert controls(f"Hi{ends} {ends}") == controls("Hi")
    assert len(llm.tokenizer.encode(ends)) == len(llm.tokenizer.added_tokens)
