"""The corpus of the bundled model: exam and training share no value and no wording, and answers are judged as they should be."""

from __future__ import annotations

import json
import re
from itertools import product
from random import Random

import pytest
from scripts.bundled import arithmetic, capitals, quoting, records, sorting, symbols
from scripts.bundled.exam import Mark
from scripts.bundled.papers import Paper, write_papers
from scripts.bundled.phrasing import (
    PHRASINGS_FILE,
    Phrasings,
    belongs,
    expand,
    fill,
    invent_word,
    is_unseen,
    load_phrasings,
    one_of,
    phrasings_of,
    roughen,
)
from scripts.bundled.skill import Exchange, Language, Question, Skill, Split

SKILLS: list[Skill] = [
    *capitals.SKILLS,
    *arithmetic.SKILLS,
    *symbols.SKILLS,
    *symbols.COUNTING_SKILLS,
    *sorting.SKILLS,
    *records.SKILLS,
    *quoting.SKILLS,
]
WORDINGS = [name for name in json.loads(PHRASINGS_FILE.read_text(encoding="utf-8")) if name != "opener"]
NUM_MEMBER_STATES = 193
NUM_DRAWS = 300
ANSWER_FORMS = {Language.ENGLISH: "{v} is the capital of {c}.", Language.CHINESE: "{c}的首都是{v}。"}

each_skill = pytest.mark.parametrize("skill", SKILLS, ids=[skill.name for skill in SKILLS])
each_language = pytest.mark.parametrize("language", list(Language), ids=[language.value for language in Language])


def _exchanges(skill: Skill, language: Language, split: Split, seed: int = 1) -> list[Exchange]:
    rng = Random(seed)
    return [skill.exchange(rng, language, split) for _ in range(NUM_DRAWS)]


@each_skill
@each_language
def test_same_seed_draws_the_same_exchanges(skill: Skill, language: Language) -> None:
    first = _exchanges(skill, language, Split.TRAIN, seed=5)
    assert first == _exchanges(skill, language, Split.TRAIN, seed=5)
    assert first != _exchanges(skill, language, Split.TRAIN, seed=6)


@each_skill
@each_language
def test_no_message_of_the_exam_is_ever_trained(skill: Skill, language: Language) -> None:
    trained = {exchange.user for exchange in _exchanges(skill, language, Split.TRAIN)}
    examined = {exchange.user for exchange in _exchanges(skill, language, Split.EXAM)}
    assert trained.isdisjoint(examined)


@each_skill
@each_language
def test_question_accepts_what_it_expects_and_nothing_else(skill: Skill, language: Language) -> None:
    rng = Random(3)
    for question in (skill.question(rng, language) for _ in range(NUM_DRAWS)):
        other = skill.question(rng, language)
        assert question.accepts(question.expected)
        assert not question.accepts("")
        assert not question.accepts(question.expected + " Really.")
        assert question.accepts(other.expected) == (other.expected == question.expected)


@pytest.mark.parametrize("wording", WORDINGS)
@each_language
def test_wordings_are_apart_and_the_exam_uses_trained_words_only(wording: str, language: Language) -> None:
    phrasings = load_phrasings(wording, language)
    assert set(phrasings.train).isdisjoint(phrasings.exam)
    assert len(phrasings.exam) >= 3
    trained = {word for name in WORDINGS for text in load_phrasings(name, language).train for word in _words(text, language)}
    examined = {word for text in phrasings.exam for word in _words(text, language)}
    assert examined - trained == set()


@pytest.mark.parametrize("wording", WORDINGS)
@each_language
def test_wordings_of_both_splits_use_the_same_slots(wording: str, language: Language) -> None:
    phrasings = load_phrasings(wording, language)
    assert {_slots(text) for text in phrasings.train} == {_slots(text) for text in phrasings.exam}


def _words(text: str, language: Language) -> set[str]:
    plain = re.sub(r"\{\w+\}", " ", text).lower()
    return set(plain) if language is Language.CHINESE else set(re.findall(r"[a-z]+", plain))


def _slots(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\{(\w+)\}", text))


@each_language
def test_capitals_cover_every_member_state_once(language: Language) -> None:
    states = capitals.countries(language)
    names = [name for state in states for name in (state.name, *state.aliases)]
    assert len(states) == NUM_MEMBER_STATES
    assert len(set(names)) == len(names)
    assert all(state.capital and state.capital == state.capital.strip() for state in states)


@each_language
def test_the_exam_asks_for_every_capital_and_accepts_other_right_names(language: Language) -> None:
    questions = list(capitals.all_capital_questions(Random(2), language))
    assert len(questions) == NUM_MEMBER_STATES
    for question, state in zip(questions, capitals.countries(language), strict=True):
        assert state.name in question.user
        for name, capital in product((state.name, *state.aliases), (state.capital, *state.also)):
            assert question.accepts(fill(ANSWER_FORMS[language], c=name, v=capital))


@pytest.mark.parametrize(
    ("language", "name", "capital"),
    [
        (Language.ENGLISH, "France", "Paris"),
        (Language.ENGLISH, "Kazakhstan", "Astana"),
        (Language.ENGLISH, "the Netherlands", "Amsterdam"),
        (Language.CHINESE, "法国", "巴黎"),
        (Language.CHINESE, "日本", "东京"),
    ],
)
def test_capital_has_one_form_of_answer(language: Language, name: str, capital: str) -> None:
    state = next(state for state in capitals.countries(language) if state.name == name)
    assert capitals.sentence(state, language) == fill(ANSWER_FORMS[language], c=name, v=capital)
    assert state.capital == capital


@each_language
def test_training_phrases_a_capital_in_forty_ways_at_least(language: Language) -> None:
    phrasings = load_phrasings(capitals.Ask.CAPITAL.value, language)
    assert len(phrasings.train) >= 40
    assert len(phrasings.exam) >= 8


@pytest.mark.parametrize("skill", arithmetic.SKILLS, ids=[skill.name for skill in arithmetic.SKILLS])
@each_language
def test_equations_are_true_and_their_pairs_are_held_out(skill: arithmetic.Arithmetic, language: Language) -> None:
    for split in Split:
        for exchange in _exchanges(skill, language, split):
            a, b, result = (int(number) for number in re.findall(r"(?<![\d])-?\d+", exchange.assistant.replace("- ", "")))
            assert result == (a + b if skill.sign == "+" else a - b)
            assert belongs(f"{a}{skill.sign}{b}", split)


def test_about_a_tenth_of_all_pairs_is_held_out() -> None:
    pairs = product(range(arithmetic.MAX_OPERAND + 1), repeat=2)
    num_held_out = sum(belongs(f"{a}+{b}", Split.EXAM) for a, b in pairs)
    assert 800 <= num_held_out <= 1200


@each_language
def test_copying_and_reversing_answer_with_the_symbols_of_the_question(language: Language) -> None:
    for split in Split:
        for exchange in _exchanges(symbols.COPYING, language, split):
            assert exchange.assistant in exchange.user
            assert belongs(_symbols_in(exchange.assistant), split)
        for exchange in _exchanges(symbols.REVERSING, language, split):
            assert exchange.assistant[::-1].replace(" ,", ", ") in exchange.user.replace(", ", ", ")
            assert belongs(_symbols_in(exchange.assistant[::-1]), split)


def _symbols_in(text: str) -> str:
    return text.replace(", ", "").replace(" ,", "").replace(" ", "")


def test_strings_have_all_lengths_up_to_twelve() -> None:
    rng = Random(4)
    lengths = {len(symbols.draw_symbols(rng, Split.TRAIN)) for _ in range(NUM_DRAWS)}
    assert lengths == set(range(1, symbols.MAX_LENGTH + 1))


def test_counting_says_how_many_there_are() -> None:
    for exchange in _exchanges(symbols.COUNTING_AT_ONCE, Language.ENGLISH, Split.TRAIN):
        if match := re.fullmatch(r"(.+) has (\d+) symbols?\.", exchange.assistant):
            assert len(_symbols_in(match[1])) == int(match[2])
        elif match := re.fullmatch(r"(\w) occurs (\d+) times? in (\w+)\.", exchange.assistant):
            assert match[3].count(match[1]) == int(match[2])
        else:
            numbers = [int(number) for number in exchange.assistant.split(", ")]
            assert numbers == list(range(numbers[0], numbers[-1] + 1))


def test_counting_in_turn_numbers_each_occurrence() -> None:
    for exchange in _exchanges(symbols.OCCURRENCES, Language.ENGLISH, Split.TRAIN):
        match = re.fullmatch(r"(.+): (\w) occurs (\d+) times?\.", exchange.assistant)
        assert match is not None
        told, one, times = match.groups()
        assert re.findall(rf"{one}\((\d+)\)", told) == [str(number) for number in range(1, int(times) + 1)]
        string = re.sub(r"\(\d+\)", "", told)
        assert string in exchange.user
        assert string.count(one) == int(times)
    assert symbols.tally("BANANA", "A") == "BA(1)NA(2)NA(3)"


@each_language
def test_every_word_of_a_record_is_quoted_in_training(language: Language) -> None:
    rng = Random(6)
    quoted = {
        word for _ in range(4000) for word in json.loads(f"[{quoting.SKILLS[0].exchange(rng, language, Split.TRAIN).assistant}]")
    }
    assert {word for is_in in (True, False) for word in quoting.record_words(language, is_in_records=is_in)} <= quoted


@each_language
def test_sorting_puts_the_numbers_of_the_question_in_order(language: Language) -> None:
    for exchange in _exchanges(sorting.Sorting(), language, Split.EXAM):
        asked = [int(number) for number in re.findall(r"\d+", exchange.user)]
        answered = [int(number) for number in re.findall(r"\d+", exchange.assistant)]
        if len(answered) > 1:
            assert sorted(asked) in (answered, answered[::-1])
            assert belongs(",".join(map(str, asked)), Split.EXAM)
        else:
            assert answered[0] in (min(asked), max(asked))


@each_language
def test_records_answer_with_json_of_values_in_the_question(language: Language) -> None:
    for split in Split:
        for exchange in _exchanges(records.Records(), language, split):
            record = json.loads(exchange.assistant)
            places = [exchange.user.find(str(key)) for key in record]
            assert records.MIN_FIELDS <= len(record) <= records.MAX_FIELDS
            assert all(str(value) in exchange.user for value in record.values())
            assert all(belongs(value if isinstance(value, str) else f"{key}={value}", split) for key, value in record.items())
            assert split is Split.TRAIN or all(is_unseen(value) for value in record.values() if isinstance(value, str))
            assert min(places) >= 0


def test_record_with_a_number_as_text_is_rejected() -> None:
    rng = Random(9)
    questions = (records.Records().question(rng, Language.ENGLISH) for _ in range(100))
    question = next(question for question in questions if '"age"' in question.expected)
    assert not question.accepts(re.sub(r'"age": (\d+)', r'"age": "\1"', question.expected))
    assert question.accepts(question.expected.replace(": ", ":"))


def test_template_with_nested_alternatives_expands_to_all() -> None:
    assert expand("[a|b[c|]] {x}") == ["a {x}", "bc {x}", "a {x}", "b {x}"]
    assert phrasings_of(["[a|b] {x}"], ["b {x}"]) == Phrasings(train=("a {x}",), exam=("b {x}",))


def test_slot_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        fill("{a} and {b}", a="1")


def test_roughness_never_touches_protected_values() -> None:
    rng = Random(8)
    texts = {roughen(rng, "Please copy Qx7K and zZ for me.", ("Qx7K", "zZ")) for _ in range(NUM_DRAWS)}
    assert all("Qx7K" in text and "zZ" in text for text in texts)
    assert {"please copy Qx7K and zZ for me.", "PLEASE COPY Qx7K AND zZ FOR ME."} <= texts


def test_invented_words_belong_to_one_split() -> None:
    rng = Random(10)
    words = {split: {invent_word(rng, split) for _ in range(NUM_DRAWS)} for split in Split}
    assert words[Split.TRAIN].isdisjoint(words[Split.EXAM])


def _count_tokens(text: str) -> int:
    return len(text) // 3 + 1


def test_exam_has_every_row_in_both_languages_and_repeats_for_a_seed() -> None:
    rows = write_papers(2, 7, _count_tokens)
    again = write_papers(2, 7, _count_tokens)
    skills = {language: {row.skill for row in rows if row.language is language} for language in Language}
    assert skills[Language.ENGLISH] == skills[Language.CHINESE]
    assert [[question.user for question in row.questions] for row in rows] == [
        [question.user for question in row.questions] for row in again
    ]
    assert all(question.accepts(question.expected) for row in rows for question in row.questions)


def test_row_passes_from_its_bar_on() -> None:
    right, wrong = "85 + 1 = 86.", "85 + 1 = 87."
    question = Question(history=(), user="85 + 1", expected=right, accepts=one_of(right))
    paper = Paper(skill="addition", language=Language.ENGLISH, bar=75, questions=(question,) * 4)
    passed = Mark(paper=paper, answers=(right, wrong, right, right))
    failed = Mark(paper=paper, answers=(right, wrong, wrong, right))
    assert passed.is_passed
    assert passed.wrong == [(question, wrong)]
    assert not failed.is_passed
    assert failed.to_row()["percent"] == 50
