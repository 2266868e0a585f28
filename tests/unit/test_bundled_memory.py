"""The chats of the bundled model's corpus: what is asked was told, what is told stays apart from the exam, seeds decide all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from random import Random

import pytest
from scripts.bundled import corpus, facts, held_out, memory, smalltalk, unknown
from scripts.bundled.chat import Chat
from scripts.bundled.conversation import conversation, exchanges
from scripts.bundled.facts import UNKNOWN, Fact, Topic, draw_topic, frames
from scripts.bundled.mix import GENERAL, MIXES, Length, Mix
from scripts.bundled.phrasing import FACT_PERCENT, is_held_out, is_unseen
from scripts.bundled.skill import Exchange, Language, Question, Split
from scripts.bundled.values import KINDS, draw_number, invent, listed

LISTED_KINDS = ("name", "colour", "town", "place", "animal", "food", "job", "month", "word")
USES = ("tell", "tell_two", "ask", "correct", "correct_it")
NOTED = {Language.ENGLISH: "Noted: ", Language.CHINESE: "\u8bb0\u4f4f\u4e86\uff1a"}


class Ledger:
    """Keeps what was noted and whether each question expects just that."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.is_right: list[bool] = []

    def noted(self, told: Sequence[Fact]) -> str:
        self.held.update({fact.topic.known: fact.value for fact in told})
        return ""

    def ask(self, _rng: Random, topic: Topic, value: str | None, _split: Split) -> Exchange:
        self.is_right.append(self.held.get(topic.known) == value)
        return Exchange(user="", assistant="")


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    book = Ledger()
    monkeypatch.setattr(facts, "noted", book.noted)
    monkeypatch.setattr(facts, "ask", book.ask)
    monkeypatch.setattr(unknown, "ask", book.ask)
    return book


def count_tokens(text: str) -> int:
    return len(text.encode()) // 3


def tokens_back(question: Question) -> int:
    between = [text for turn in question.history[1:] for text in (turn.user, turn.assistant)]
    return sum(count_tokens(text) + 2 for text in (*between, question.user))


@pytest.mark.parametrize(("use", "language"), list(product(USES, Language)))
def test_the_exam_words_facts_as_training_never_does(use: str, language: Language) -> None:
    exam = set(frames(use, language, Split.EXAM))
    assert len(exam) >= 2
    assert not exam & set(frames(use, language, Split.TRAIN))


@pytest.mark.parametrize(("kind", "language"), list(product(LISTED_KINDS, Language)))
def test_listed_values_of_exam_and_training_are_disjoint(kind: str, language: Language) -> None:
    train, exam = (set(listed(kind, language, split)) for split in Split)
    assert exam
    assert len(train) > len(exam)
    assert not train & exam


@pytest.mark.parametrize(("kind", "language", "split"), list(product(("name", "town", "food"), Language, Split)))
def test_invented_values_belong_to_one_split(kind: str, language: Language, split: Split) -> None:
    rng = Random(3)
    for _ in range(100):
        value = invent(rng, kind, language, split).lower()
        assert is_unseen(value) if split is Split.EXAM else not is_held_out(value, FACT_PERCENT)


@pytest.mark.parametrize("mix", MIXES.values(), ids=list(MIXES))
def test_training_shows_no_listed_value_of_the_exam_in_any_role(mix: Mix) -> None:
    conversations = [messages for index in range(4) for messages in corpus.chunk(1, index, mix)]
    told = "\n".join(message["content"] for messages in conversations for message in messages)
    english, chinese = ([value for kind in LISTED_KINDS for value in listed(kind, language, Split.EXAM)] for language in Language)
    any_english = re.compile(rf"\b({'|'.join(english)})\b", re.IGNORECASE)
    assert not any_english.findall(told)
    assert [value for value in chinese if value in told] == []


def test_invented_values_hardly_repeat() -> None:
    rng = Random(4)
    assert len({invent(rng, "name", Language.ENGLISH, Split.TRAIN) for _ in range(1000)}) > 900


def test_numbers_have_the_digits_asked_for() -> None:
    rng = Random(5)
    assert all(len(draw_number(rng, num_digits, split)) == num_digits for num_digits in range(1, 6) for split in Split)


def test_every_kind_of_topic_is_drawn() -> None:
    rng = Random(6)
    assert {draw_topic(rng, Language.ENGLISH, Split.TRAIN).kind for _ in range(2000)} == set(KINDS)


@pytest.mark.parametrize(("language", "seed"), list(product(Language, range(5))))
def test_a_fact_is_asked_for_the_given_distance_after_it_was_told(language: Language, seed: int) -> None:
    question = memory.recall_question(Random(seed), language, 601, 1500, count_tokens)
    assert 601 <= tokens_back(question) <= 1500
    assert len(question.history) > 10
    told = question.expected[1:-1]
    assert told in question.history[0].assistant
    assert not any(told in turn.assistant for turn in question.history[1:])


@pytest.mark.parametrize(("language", "seed"), list(product(Language, range(10))))
def test_a_question_is_about_a_fact_with_one_value(language: Language, seed: int) -> None:
    question = memory.recall_question(Random(seed), language, 0, 600, count_tokens)
    assert question.accepts(f" {question.expected}\n")
    assert not question.accepts(UNKNOWN[language])
    assert not question.accepts(question.expected[:-2])


@pytest.mark.parametrize(("language", "seed"), list(product(Language, range(20))))
def test_a_corrected_fact_is_asked_for_with_its_last_value(language: Language, seed: int) -> None:
    question = memory.correction_question(Random(seed), language)
    topic = _topic_of(question.expected, language)
    clauses = [clause for turn in question.history for clause in _clauses(turn.assistant, language)]
    said = [clause for clause in clauses if _topic_of(clause, language) == topic]
    assert said[-1] == question.expected[:-1].lower()
    assert said[0] != said[-1]


def test_a_correction_changes_what_a_later_question_expects() -> None:
    chat = Chat(Random(7), Split.TRAIN)
    for _ in range(50):
        chat.tell(Language.ENGLISH)
        old = chat.told[-1]
        corrected = chat.correct_by_name(old)
        new = chat.told[-1]
        assert new.topic.known == old.topic.known
        assert new.value != old.value
        assert corrected.assistant == f"Noted: {new.topic.clause(new.value)}."
        assert chat.recall_of(new).assistant == new.topic.sentence(new.value)


@pytest.mark.parametrize(("length", "language"), list(product((Length.SHORT, Length.MEDIUM, Length.LONG), Language)))
def test_answers_follow_from_what_was_told(length: Length, language: Language, ledger: Ledger) -> None:
    for seed in range(30):
        ledger.held.clear()
        exchanges(Random(seed), length, (language,))
    assert len(ledger.is_right) > 20
    assert all(ledger.is_right)


@pytest.mark.parametrize("language", list(Language))
def test_unknown_never_asks_for_a_told_fact(language: Language, ledger: Ledger) -> None:
    for seed in range(200):
        ledger.held.clear()
        unknown.SKILLS[0].question(Random(seed), language)
    assert len(ledger.is_right) > 50
    assert all(ledger.is_right)


def test_long_chats_look_back_often_and_far() -> None:
    rng = Random(9)
    chats = [exchanges(rng, Length.LONG, (Language.ENGLISH,)) for _ in range(20)]
    distances = [distance for chat in chats for distance in _recall_distances(chat)]
    assert 0.3 < len(distances) / sum(len(chat) for chat in chats) < 0.5
    assert sum(distance > 20 for distance in distances) > 0.1 * len(distances)


@pytest.mark.parametrize("language", list(Language))
def test_what_was_never_told_is_admitted_after_facts_that_resemble_it(language: Language) -> None:
    rng = Random(10)
    questions = [unknown.SKILLS[0].question(rng, language) for _ in range(200)]
    assert all(question.expected == UNKNOWN[language] and question.accepts(UNKNOWN[language]) for question in questions)
    assert sum(bool(question.history) for question in questions) > 30


@pytest.mark.parametrize(("topic", "language"), list(product(smalltalk.topics(), Language)))
def test_each_topic_of_small_talk_has_many_wordings_and_one_answer(topic: str, language: Language) -> None:
    phrasings = smalltalk.topic_phrasings(topic, language)
    assert len(phrasings.train) >= 10
    assert len(phrasings.exam) >= 2
    assert not set(phrasings.train) & set(phrasings.exam)
    assert smalltalk.topic_answer(topic, language)


def test_a_chunk_of_the_corpus_depends_on_seed_and_index_alone() -> None:
    assert corpus.corpus_lines(1, GENERAL.name, 2) == corpus.corpus_lines(1, GENERAL.name, 2)
    assert corpus.corpus_lines(1, GENERAL.name, 2) != corpus.corpus_lines(1, GENERAL.name, 3)
    assert corpus.corpus_lines(1, GENERAL.name, 2) != corpus.corpus_lines(2, GENERAL.name, 2)


def test_the_file_is_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{num_processes}.jsonl" for num_processes in (1, 2)]
    for num_processes, path in enumerate(paths, start=1):
        corpus.main([str(path), "--tokens", "150000", "--seed", "5", "--processes", str(num_processes)])
    first, second = (path.read_text(encoding="utf-8") for path in paths)
    assert first == second
    documents = [json.loads(line) for line in first.splitlines()]
    roles = [[message["role"] for message in document["messages"]] for document in documents if "messages" in document]
    texts = [document["text"] for document in documents if "text" in document]
    assert len(roles) >= 1000
    assert len(texts) == round(corpus.PLAIN_SHARE * len(roles))
    assert any("capital of" in text for text in texts)
    assert all(role[-2:] == ["user", "assistant"] for role in roles)


def test_conversations_fit_the_context() -> None:
    rng = Random(11)
    assert max(corpus.conversation_tokens(conversation(rng)) for _ in range(2000)) < 1950


def test_tokenizer_texts_name_capitals_in_both_languages() -> None:
    texts = list(corpus.tokenizer_texts(1, 600))
    assert sum("capital" in text for text in texts) > 60
    assert sum("\u9996\u90fd" in text for text in texts) > 60


def _topic_of(sentence: str, language: Language) -> str:
    """Returns the part of a sentence before its value, in small letters."""
    return sentence.lower().split(" is " if language is Language.ENGLISH else "\u662f")[0]


def _clauses(answer: str, language: Language) -> list[str]:
    """Returns the facts that an answer states, in small letters."""
    stated = answer.removeprefix(NOTED[language])[:-1].lower()
    return stated.split(" and " if language is Language.ENGLISH else "\uff0c")


def _recall_distances(chat: list[Exchange]) -> list[int]:
    """Returns for each question answered from memory how many turns ago the value was mentioned."""
    mentioned: dict[str, int] = {}
    distances = []
    for index, turn in enumerate(chat):
        is_noted = turn.assistant.startswith(NOTED[Language.ENGLISH])
        clauses = _clauses(turn.assistant, Language.ENGLISH)
        if not is_noted and clauses[0] in mentioned:
            distances.append(index - mentioned[clauses[0]])
        if is_noted or clauses[0] in mentioned:
            mentioned |= dict.fromkeys(clauses, index)
    return distances


def test_held_out_chats_are_one_a_line_in_both_languages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out.main([str(tmp_path / "chats.txt")])
    chats = (tmp_path / "chats.txt").read_text(encoding="utf-8").splitlines()
    assert [chat.isascii() for chat in chats] == [True, False] * held_out.CHATS_A_LANGUAGE
    assert all(chat.startswith("<|user|>") and chat.endswith("<|end|>") for chat in chats)
    assert capsys.readouterr().out.startswith(f"{len(chats)} chats, ")
