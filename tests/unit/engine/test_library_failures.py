"""Panics of the tokenizers library, which are no Exception, end one request and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from quire.engine.core import EngineCore
from quire.errors import RequestError, is_failure
from quire.executors.protocol import Float32Array, StepBatch
from quire.request import FinishReason, RequestOutput
from quire.text.tokenizer import Tokenizer
from support import tiny_tokenizers as tiny
from support.fake_engine import FakeExecutor, make_core, submission

WORDS = {f"w{i}": i for i in range(40)}


def panicking(directory: Path) -> Tokenizer:
    """A tokenizer whose decoder looks at neighbors and fails on a text of spaces alone."""
    backend = tokenizers.Tokenizer(models.WordLevel(WORDS | {" ": 40}, unk_token=next(iter(WORDS))))
    backend.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 1)])
    backend.save(str(directory / "tokenizer.json"))
    return Tokenizer.from_directory(directory)


def run(core: EngineCore, *prompts: int, **params: object) -> dict[str, RequestOutput]:
    outputs: dict[str, RequestOutput] = {}
    for number, token_id in enumerate(prompts):
        core.submit(submission(str(number), (token_id, token_id), max_tokens=2, **params))
    while core.has_work:
        outputs |= {event.request_id: event for event in core.step() if isinstance(event, RequestOutput)}
    return outputs


class Echo(FakeExecutor):
    """Says the last token again."""

    def _row(self, batch: StepBatch, row: int) -> Float32Array:
        logits = super()._row(batch, row) * 0
        logits[int(batch.token_ids[row])] = 3.0
        return logits


class PanickingDecoder:
    """Stands for a tokenizer's library that panics over one token."""

    def __init__(self, backend: tokenizers.Tokenizer, token_id: int, error: BaseException) -> None:
        self._backend, self._token_id, self._error = backend, token_id, error

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def decode(self, token_ids: list[int], **options: bool) -> str:
        if self._token_id in token_ids:
            raise self._error
        return str(self._backend.decode(token_ids, **options))


class PanicError(BaseException):
    """As pyo3's PanicException."""


@pytest.fixture
def failing(tmp_path: Path) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.WordLevel(WORDS, unk_token=next(iter(WORDS))))
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_directory(tmp_path)
    tokenizer._backend = PanickingDecoder(backend, 7, PanicError("out of bounds"))
    return tokenizer


def test_a_panic_while_decoding_is_a_typed_error(tmp_path: Path) -> None:
    tokenizer = panicking(tmp_path)
    with pytest.raises(RequestError, match=r"the tokenizer failed to decode tokens.*PanicException"):
        tokenizer.decode([40])
    assert tokenizer.decode([5]) == "w5"


def test_a_panic_while_encoding_is_a_typed_error() -> None:
    backend = tokenizers.Tokenizer.from_str(tiny.byte_level_backend().to_str())
    backend.pre_tokenizer = pre_tokenizers.FixedLength(0)
    tokenizer = tiny.wrapped(backend)
    for encode in (tokenizer.encode, tokenizer.encode_continuation, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(RequestError, match=r"the tokenizer failed to encode.*PanicException"):
            encode("abc")


def test_a_word_that_the_vocabulary_lacks_is_a_typed_error() -> None:
    tokenizer = tiny.wrapped(tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token=tiny.UNKNOWN)))
    with pytest.raises(RequestError, match="the tokenizer failed to encode the text"):
        tokenizer.encode("b")


@pytest.mark.parametrize("params", [{}, {"logprobs": 1}, {"stop": ("x",)}])
def test_the_request_whose_text_cannot_be_made_fails_alone(failing: Tokenizer, params: dict[str, object]) -> None:
    class Answers(FakeExecutor):
        def _row(self, batch: StepBatch, row: int) -> Float32Array:
            logits = super()._row(batch, row) * 0
            logits[7 if int(batch.token_ids[row]) == 3 else 9] = 3.0
            return logits

    core = make_core(Answers(), failing)
    outputs = run(core, 3, 4, **params)
    assert outputs["0"].outputs[0].finish_reason is FinishReason.ERROR
    assert "out of bounds" in str(outputs["0"].outputs[0].error)
    assert outputs["1"].outputs[0].finish_reason is FinishReason.LENGTH
    assert outputs["1"].outputs[0].error is None
    assert core.integrity_errors == []


def test_prompt_scores_whose_names_cannot_be_made_end_their_request_alone(failing: Tokenizer) -> None:
    core = make_core(Echo(), failing)
    core.submit(submission("scored", (1, 7, 2, 2, 2, 2, 2), max_tokens=1, prompt_logprobs=0))
    outputs = run(core, 4)
    assert outputs["scored"].outputs[0].finish_reason is FinishReason.ERROR
    assert outputs["0"].outputs[0].finish_reason is FinishReason.LENGTH
    assert core.integrity_errors == []


def test_a_panic_of_the_forward_pass_is_blamed_on_its_request(failing: Tokenizer) -> None:
    class Panics(Echo):
        def run(self, batch: StepBatch) -> Float32Array:
            if 5 in batch.token_ids:
                raise PanicError("in the kernel")
            return super().run(batch)

    outputs = run(make_core(Panics(), failing), 5, 4)
    assert "in the kernel" in str(outputs["0"].outputs[0].error)
    assert outputs["1"].outputs[0].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_what_ends_a_program_is_no_failure_of_a_request(failing: Tokenizer, error: BaseException) -> None:
    failing._backend = PanickingDecoder(failing._backend, 9, error)
    with pytest.raises(type(error)):
        failing.decode([9])
    core = make_core(Echo(), failing)
    core.submit(submission("a", (8, 8), max_tokens=2, bad_words=()))
    with pytest.raises(type(error)):
        core.submit(submission("b", (9, 9), max_tokens=2))


def test_an_asyncio_task_is_canceled() -> None:
    import asyncio

    assert not is_failure(asyncio.CancelledError())
    assert is_failure(PanicError())
