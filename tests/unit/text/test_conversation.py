"""Conversations over templates that behave, and over one that does not."""

from __future__ import annotations

import pytest

from quire.errors import RequestError
from quire.text.chat import ChatTemplate
from quire.text.conversation import Conversation
from quire.text.tokenizer import AddSpecial
from support import tiny_tokenizers as tiny

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORGETS_REASONING = CHATML.replace("m.content +", "(m.content if loop.last else m.content.split('</think>')[-1]) +")


def conversation(source: str = CHATML) -> Conversation:
    return Conversation(ChatTemplate(source, special_tokens={}), tiny.byte_level())


def ids_of(text: str) -> list[int]:
    return tiny.byte_level().encode(text, special=AddSpecial.NO)


def test_a_conversation_reads_as_its_template_writes_it() -> None:
    chat = conversation()
    chat.add_system("Be brief.")
    chat.add_user("Hello")
    chat.prompt_token_ids()
    assert chat.add_assistant([*ids_of("Hi!"), *ids_of(tiny.EOS)]) == "Hi!"
    chat.add_user("Again")
    expected = chat.template.render(chat.messages)
    assert tiny.byte_level().decode(chat.prompt_token_ids(), skip_special=False) == expected


def test_generated_tokens_stay_as_they_were_generated() -> None:
    chat = conversation()
    chat.add_user("Hello")
    prompt = chat.prompt_token_ids()
    letters = [token for letter in "France" for token in ids_of(letter)]
    assert letters != ids_of("France")
    chat.add_assistant(letters)
    chat.add_user("Why?")
    assert chat.prompt_token_ids()[: len(prompt) + len(letters)] == (*prompt, *letters)


def test_a_template_that_rewrites_old_turns_is_followed_and_the_change_is_counted() -> None:
    chat = conversation(FORGETS_REASONING)
    chat.add_user("Hello")
    first = chat.prompt_token_ids()
    answer = ids_of("let me see</think>Hi")
    chat.add_assistant(answer)
    chat.add_user("Again")
    prompt = chat.prompt_token_ids()
    assert tiny.byte_level().decode(prompt, skip_special=False) == chat.template.render(chat.messages)
    assert prompt[: len(first)] == first
    assert 0 < chat.num_rewritten_tokens <= len(answer)


def test_undo_forgets_the_last_turn_and_its_tokens() -> None:
    chat = conversation()
    chat.add_user("Hello")
    first = chat.prompt_token_ids()
    chat.add_assistant(ids_of("Hi"))
    chat.add_user("Wrong")
    chat.prompt_token_ids()
    chat.undo()
    assert [message["content"] for message in chat.messages] == ["Hello", "Hi"]
    chat.undo()
    assert chat.messages == ()
    chat.add_user("Hello")
    assert chat.prompt_token_ids() == first
    chat.undo()
    with pytest.raises(RequestError, match="no turn to undo"):
        chat.undo()


def test_a_fork_and_its_origin_go_separate_ways_from_the_same_tokens() -> None:
    chat = conversation()
    chat.add_user("Hello")
    prompt = chat.prompt_token_ids()
    fork = chat.fork()
    chat.add_assistant(ids_of("Hi"))
    fork.add_assistant(ids_of("Ho"))
    assert [twin.messages[-1]["content"] for twin in (chat, fork)] == ["Hi", "Ho"]
    fork.add_user("More")
    assert fork.prompt_token_ids()[: len(prompt)] == prompt


def test_asking_for_the_prompt_twice_changes_nothing() -> None:
    chat = conversation()
    chat.add_user("Hello")
    assert chat.prompt_token_ids() == chat.prompt_token_ids()
    assert chat.num_rewritten_tokens == 0
