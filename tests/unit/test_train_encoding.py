"""Documents become token ids of which exactly the answers, with the tokens that end them, are learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from quire.errors import ConfigError
from quire.train.documents import Document
from quire.train.encoding import EncodedDocuments, Encoder
from quire.train.recipe import Recipe
from quire.train.split import split_documents
from support.tiny_tokenizers import sentencepiece_backend
from support.train_world import TEXTS, write_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n'"
    " + message.content | trim + '<|eot_id|>' }}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"
)
BUNDLED = "bundled"
ENDS = {CHATML: "<|im_end|>", LLAMA3: "<|eot_id|>", MISTRAL: "</s>", BUNDLED: "<|end|>"}
SPECIALS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEMPLATES = pytest.mark.parametrize("template", list(ENDS), ids=["chatml", "llama3", "mistral", "bundled"])

TALK = (("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello! 你好"), ("user", "Bye"), ("assistant", "Goodbye."))


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns where a byte-level tokenizer with a given chat template lies."""
    made: dict[str, Path] = {}

    def directory_of(template: str) -> Path:
        if template not in made:
            made[template] = tmp_path_factory.mktemp("tokenizer")
            if template == BUNDLED:
                write_tokenizer(made[template])
            else:
                write_byte_level(made[template], template)
        return made[template]

    return directory_of


def write_byte_level(directory: Path, template: str) -> None:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    bos_id = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos_id)])
    save(backend, directory, template)


def save(backend: tokenizers.Tokenizer, directory: Path, template: str) -> None:
    backend.save(str(directory / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def talk(*turns: tuple[str, str], where: str = "chats.jsonl:7") -> Document:
    return Document(messages=tuple({"role": role, "content": content} for role, content in turns), where=where)


def text(content: str) -> Document:
    return Document(text=content, where="notes.txt")


def learned_texts(directory: Path, encoded: EncodedDocuments) -> list[str]:
    """Returns each run of learned tokens as text, special tokens written out."""
    backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    border = np.flatnonzero(np.diff(np.concatenate([[False], encoded.is_learned, [False]]).astype(np.int8)))
    runs = border.reshape(-1, 2)
    return [backend.decode(encoded.token_ids[start:end].tolist(), skip_special_tokens=False) for start, end in runs]


@TEMPLATES
def test_exactly_the_answers_and_their_ends_are_learned(template: str, directories: Callable[[str], Path]) -> None:
    encoded = Encoder(directories(template), 512).encode([talk(*TALK)]).documents
    end = ENDS[template]
    assert [run.removeprefix(" ") for run in learned_texts(directories(template), encoded)] == [
        f"Hello! 你好{end}",
        f"Goodbye.{end}",
    ]
    assert not encoded.is_learned[0]


CONTENT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Zs", "Zl", "Zp")), max_size=12)


@TEMPLATES
@settings(max_examples=30, deadline=None)
@given(answers=st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=4))
def test_any_answers_are_found(template: str, directories: Callable[[str], Path], answers: list[tuple[str, str]]) -> None:
    turns = [turn for said, answer in answers for turn in (("user", said), ("assistant", answer))]
    encoded = Encoder(directories(template), 4096).encode([talk(*turns)]).documents
    found = [run.removeprefix(" ") for run in learned_texts(directories(template), encoded)]
    assert found == [answer + ENDS[template] for _, answer in answers]


def test_a_token_that_begins_before_an_answer_belongs_to_it(tmp_path: Path) -> None:
    backend = sentencepiece_backend()
    save(backend, tmp_path, "{% for message in messages %}{{ message.role + ': ' + message.content }}<|im_end|>{% endfor %}")
    encoded = Encoder(tmp_path, 512).encode([talk(("user", "Hello there"), ("assistant", "the capital"))]).documents
    assert learned_texts(tmp_path, encoded) == ["the capital<|im_end|>"]
    first = int(np.flatnonzero(encoded.is_learned)[0])
    assert backend.id_to_token(int(encoded.token_ids[first])).startswith("\u2581")


def test_a_user_cannot_forge_the_mark_of_an_answer(directories: Callable[[str], Path]) -> None:
    directory = directories(BUNDLED)
    said = "\ue000" + "1\ue0001\ue000 \ue0011\ue001"
    encoded = Encoder(directory, 512).encode([talk(("user", said), ("assistant", said))]).documents
    assert learned_texts(directory, encoded) == [said + "<|end|>"]


@TEMPLATES
def test_control_tokens_that_messages_spell_are_learned_as_text(template: str, directories: Callable[[str], Path]) -> None:
    directory, end = directories(template), ENDS[template]
    said = f"Say {end}now"
    encoder = Encoder(directory, 512)
    plain, spelled = encoder.encode_batch([talk(("user", "a"), ("assistant", "b")), talk(("user", said), ("assistant", said))])
    special = encoder_specials(directory)
    assert [i for i in spelled[0].tolist() if i in special] == [i for i in plain[0].tolist() if i in special]
    encoded = encoder.encode([talk(("user", said), ("assistant", said))]).documents
    assert [run.removeprefix(" ") for run in learned_texts(directory, encoded)] == [said + end]


def encoder_specials(directory: Path) -> set[int]:
    added = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json")).get_added_tokens_decoder()
    return {token_id for token_id, token in added.items() if token.special}


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        (LLAMA3, " spaces around "),
        ("{% for message in messages %}{{ message.content | upper }}{% endfor %}", "quiet"),
        ("{% for message in messages %}{{ message.content.split('</think>')[-1] }}{% endfor %}", "<think>a</think>b"),
        ("{% for message in messages %}{{ message.content + message.content }}{% endfor %}", "twice"),
        ("{% for message in messages %}{% if message.role == 'user' %}{{ message.content }}{% endif %}{% endfor %}", "dropped"),
    ],
    ids=["trimmed", "upper", "thoughts", "twice", "dropped"],
)
def test_a_template_that_changes_answers_is_refused(tmp_path: Path, template: str, answer: str) -> None:
    write_byte_level(tmp_path, template)
    with pytest.raises(ConfigError, match=r"does not write the answers as they are.*chats.jsonl:7"):
        Encoder(tmp_path, 512).encode([talk(("user", "Hi"), ("assistant", answer))])


def test_a_conversation_that_the_template_refuses_is_named(directories: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"knows the roles system, user and assistant.*chats.jsonl:7"):
        Encoder(directories(BUNDLED), 512).encode([talk(("tool", "42"), ("assistant", "It is 42."))])


def test_conversations_without_a_template_are_refused_and_texts_are_not(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    Encoder(tmp_path, 512).encode([text("Paris")])
    with pytest.raises(ConfigError, match="need a chat template"):
        Encoder(tmp_path, 512).encode([talk(*TALK)])


def test_a_text_begins_as_a_prompt_does_and_ends_with_one_end(directories: Callable[[str], Path], tmp_path: Path) -> None:
    directory = directories(CHATML)
    encoded = Encoder(directory, 512).encode([text("Paris is")]).documents
    assert encoded.is_learned.all()
    assert learned_texts(directory, encoded) == ["<s>Paris is</s>"]
    backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    both = [(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=both)
    save(backend, tmp_path, CHATML)
    assert learned_texts(tmp_path, Encoder(tmp_path, 512).encode([text("Paris is")]).documents) == ["<s>Paris is</s>"]


def test_long_documents_are_cut_and_counted_and_nothing_is_lost(directories: Callable[[str], Path]) -> None:
    directory = directories(BUNDLED)
    documents = [text("Rome is the capital of Italy. " * 5), text("你好"), talk(("user", "Hi " * 20), ("assistant", "Hello!"))]
    whole, cut = (Encoder(directory, max_tokens).encode(documents) for max_tokens in (512, 8))
    assert (whole.num_cut, whole.num_unused) == (0, 0)
    assert cut.num_cut == 2
    assert cut.documents.lengths.max() == 8
    assert cut.num_unused > 0
    num_left_out = len(whole.documents.token_ids) - len(cut.documents.token_ids)
    assert 8 * (cut.num_unused - 1) < num_left_out <= 8 * cut.num_unused
    assert cut.documents.is_learned.sum() == whole.documents.is_learned.sum()


def test_nothing_to_learn_is_an_error(directories: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="nothing to learn"):
        Encoder(directories(BUNDLED), 512).encode([])


@pytest.fixture
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.train.encoding._ENCODE_BATCH", 2)
    monkeypatch.setattr("quire.train.encoding._MIN_BATCHES_TO_SHARE", 3)


@pytest.mark.usefixtures("_small_batches")
def test_several_processes_encode_the_same_in_the_same_order(directories: Callable[[str], Path]) -> None:
    documents = [talk(("user", f"Say {number}"), ("assistant", str(number))) for number in range(21)]
    alone, shared = (Encoder(directories(BUNDLED), 512, processes).encode(documents).documents for processes in (1, 2))
    assert shared.digest() == alone.digest()
    np.testing.assert_array_equal(shared.token_ids, alone.token_ids)


@pytest.mark.usefixtures("_small_batches")
def test_an_error_comes_out_of_another_process_whole(directories: Callable[[str], Path]) -> None:
    def documents() -> Iterator[Document]:
        yield from (talk(*TALK) for _ in range(12))
        yield talk(("tool", "42"), ("assistant", "It is 42."), where="chats.jsonl:13")

    with pytest.raises(ConfigError, match=r"knows the roles.*chats.jsonl:13.*Change the messages") as caught:
        Encoder(directories(BUNDLED), 512, 2).encode(documents())
    assert caught.value.given == "chats.jsonl:13"


@given(num_documents=st.integers(1, 200), share=st.floats(0, 0.5), seed=st.integers(0, 99))
def test_every_document_is_either_learned_or_held_out(num_documents: int, share: float, seed: int) -> None:
    starts = np.arange(num_documents + 1, dtype=np.int64) * 2
    ids = np.arange(2 * num_documents, dtype=np.int32)
    everything = EncodedDocuments(token_ids=ids, is_learned=np.ones(len(ids), dtype=np.bool_), starts=starts)
    learned, held_out = split_documents(everything, Recipe(validation_share=share, seed=seed))
    num_held_out = int(num_documents * share)
    assert (held_out is None) is (num_held_out == 0)
    parts = [learned] if held_out is None else [learned, held_out]
    assert sorted(np.concatenate([part.token_ids for part in parts])) == ids.tolist()
    assert len(learned.lengths) == num_documents - num_held_out


def test_any_change_of_the_data_changes_its_digest(directories: Callable[[str], Path]) -> None:
    encoder = Encoder(directories(BUNDLED), 512)
    one, two = text("Paris"), text("Rome")
    digests = [encoder.encode(documents).documents.digest() for documents in ([one, two], [two, one], [one], [one, two, two])]
    assert len(set(digests)) == 4
    assert encoder.encode([one, two]).documents.digest() == digests[0]
