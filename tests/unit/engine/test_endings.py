"""Every way in which a completion ends, and what it says of itself: text, finish reason and stop reason belong together."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from quire.engine.completion import CompletionState
from quire.engine.step_events import Progress
from quire.request import CompletionOutput, FinishReason
from quire.text.tokenizer import AddSpecial
from support import tiny_tokenizers as tiny
from support.fake_engine import MAX_CONTEXT, make_core, submission
from support.scripted import ScriptedExecutor, answer

X = "<|im_start|>"  # a special token that ends nothing by itself
EOS = tiny.EOS
STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH
HALF = "half a character"


def tokens_of(pieces: tuple[str, ...]) -> list[int]:
    tokenizer = tiny.byte_level()
    ids: list[int] = []
    for piece in pieces:
        encoded = tokenizer.encode("\N{MICROSCOPE}" if piece == HALF else piece, special=AddSpecial.NO)
        ids += encoded[:2] if piece == HALF else encoded
    return ids


def id_of(piece: str) -> int:
    (token_id,) = tokens_of((piece,))
    return token_id


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The pieces that a model would write, of one token each, what was asked, and the right answer."""

    pieces: tuple[str, ...]
    text: str
    num_tokens: int
    finish: FinishReason = STOP
    reason: int | str | None
    params: dict[str, object] = field(default_factory=dict)


A, B = id_of("a"), id_of("b")
ENDINGS = {
    "end of sequence": Ending(pieces=("a", EOS, "b"), text="a", num_tokens=2, reason=None),
    "end of sequence, kept and shown": Ending(
        pieces=("a", EOS, "b"),
        params={"include_stop_str_in_output": True, "skip_special_tokens": False},
        text="a" + EOS,
        num_tokens=2,
        reason=None,
    ),
    "end of sequence, special tokens shown": Ending(
        pieces=("a", EOS, "b"), params={"skip_special_tokens": False}, text="a", num_tokens=2, reason=None
    ),
    "end of sequence ignored": Ending(
        pieces=("a", EOS, "b"), params={"ignore_eos": True}, text="ab", num_tokens=3, finish=LENGTH, reason=None
    ),
    "end of sequence as the last token": Ending(pieces=("a", EOS), params={"max_tokens": 2}, text="a", num_tokens=2, reason=None),
    "end of sequence is a stop id": Ending(
        pieces=("a", EOS, "b"), params={"stop_token_ids": [id_of(EOS)]}, text="a", num_tokens=2, reason=id_of(EOS)
    ),
    "end of sequence ignored but a stop id": Ending(
        pieces=("a", EOS, "b"),
        params={"ignore_eos": True, "stop_token_ids": [id_of(EOS)]},
        text="a",
        num_tokens=2,
        reason=id_of(EOS),
    ),
    "end of sequence is a stop string": Ending(
        pieces=("a", EOS, "b"), params={"stop": [EOS]}, text="a", num_tokens=2, reason=EOS
    ),
    "end of sequence ignored but a stop string": Ending(
        pieces=("a", EOS, "b"), params={"stop": [EOS], "ignore_eos": True}, text="a", num_tokens=2, reason=EOS
    ),
    "end of sequence completes a stop string": Ending(
        pieces=("a", "b", EOS), params={"stop": ["b" + EOS]}, text="a", num_tokens=3, reason="b" + EOS
    ),
    "end of sequence releases what a stop string held back": Ending(
        pieces=("a", "b", EOS), params={"stop": ["bc"]}, text="ab", num_tokens=3, reason=None
    ),
    "stop id": Ending(pieces=("a", "b", "c"), params={"stop_token_ids": [B]}, text="a", num_tokens=2, reason=B),
    "stop id, kept": Ending(
        pieces=("a", "b", "c"),
        params={"stop_token_ids": [B], "include_stop_str_in_output": True},
        text="ab",
        num_tokens=2,
        reason=B,
    ),
    "stop id as the last token": Ending(
        pieces=("a", "b"), params={"stop_token_ids": [B], "max_tokens": 2}, text="a", num_tokens=2, reason=B
    ),
    "stop id goes before a stop string": Ending(
        pieces=("a", "b", "c"), params={"stop_token_ids": [B], "stop": ["b"]}, text="a", num_tokens=2, reason=B
    ),
    "stop id, kept, goes before a stop string": Ending(
        pieces=("a", "b", "c"),
        params={"stop_token_ids": [B], "stop": ["ab"], "include_stop_str_in_output": True},
        text="ab",
        num_tokens=2,
        reason=B,
    ),
    "stop string": Ending(pieces=("a", "b", "c"), params={"stop": ["b"]}, text="a", num_tokens=2, reason="b"),
    "stop string as the last token": Ending(
        pieces=("a", "b"), params={"stop": ["ab"], "max_tokens": 2}, text="", num_tokens=2, reason="ab"
    ),
    "special token": Ending(pieces=("a", X, "b"), params={"stop": [X]}, text="a", num_tokens=2, reason=X),
    "special token, shown": Ending(
        pieces=("a", X, "b"), params={"stop": [X], "skip_special_tokens": False}, text="a", num_tokens=2, reason=X
    ),
    "special token, kept": Ending(
        pieces=("a", X, "b"), params={"stop": [X], "include_stop_str_in_output": True}, text="a", num_tokens=2, reason=X
    ),
    "special token, kept and shown": Ending(
        pieces=("a", X, "b"),
        params={"stop": [X], "include_stop_str_in_output": True, "skip_special_tokens": False},
        text="a" + X,
        num_tokens=2,
        reason=X,
    ),
    "text around a special token": Ending(
        pieces=("a", "b", X, "c", "d"), params={"stop": ["b" + X + "c"]}, text="a", num_tokens=4, reason="b" + X + "c"
    ),
    "text around a special token, kept": Ending(
        pieces=("a", "b", X, "c", "d"),
        params={"stop": ["b" + X + "c"], "include_stop_str_in_output": True},
        text="abc",
        num_tokens=4,
        reason="b" + X + "c",
    ),
    "part of a special token": Ending(pieces=("a", X, "b"), params={"stop": ["|im_"]}, text="a", num_tokens=2, reason="|im_"),
    "no stop string is found across a hidden token": Ending(
        pieces=("a", X, "b"), params={"stop": ["ab"]}, text="ab", num_tokens=3, finish=LENGTH, reason=None
    ),
    "the stop string that is complete first": Ending(
        pieces=("a", "b", "c", "d"), params={"stop": ["abcd", "c", "bc"]}, text="a", num_tokens=3, reason="bc"
    ),
    "stop string of half a character at the end": Ending(
        pieces=("a", HALF), params={"stop": ["\ufffd"], "max_tokens": 3}, text="a", num_tokens=3, reason="\ufffd"
    ),
    "stop string too early": Ending(
        pieces=("a", "b", "c"), params={"stop": ["ab"], "min_tokens": 2}, text="abc", num_tokens=3, finish=LENGTH, reason=None
    ),
    "stop string begun early": Ending(
        pieces=("a", "b", "c"), params={"stop": ["bc"], "min_tokens": 2}, text="a", num_tokens=3, reason="bc"
    ),
    "special token begun early": Ending(
        pieces=("a", X, "c"), params={"stop": [X + "c"], "min_tokens": 2}, text="a", num_tokens=3, reason=X + "c"
    ),
    "special token too early": Ending(
        pieces=("a", X, "c"), params={"stop": [X], "min_tokens": 2}, text="ac", num_tokens=3, finish=LENGTH, reason=None
    ),
    "longest output": Ending(
        pieces=("a", "b", "c"), params={"max_tokens": 2}, text="ab", num_tokens=2, finish=LENGTH, reason=None
    ),
    "longest output is also the shortest": Ending(
        pieces=("a", "b"),
        params={"max_tokens": 2, "min_tokens": 2, "stop": ["b", "\ufffd"]},
        text="ab",
        num_tokens=2,
        finish=LENGTH,
        reason=None,
    ),
    "longest output releases what a stop string held back": Ending(
        pieces=("a", X, "b"), params={"stop": [X + "bc"]}, text="ab", num_tokens=3, finish=LENGTH, reason=None
    ),
    "whole context": Ending(
        pieces=("a",), params={"max_tokens": None}, text="a" * (MAX_CONTEXT - 1), num_tokens=511, finish=LENGTH, reason=None
    ),
    "stop string that fills the context": Ending(
        pieces=("a",),
        params={"max_tokens": None, "stop": ["a" * (MAX_CONTEXT - 1)]},
        text="",
        num_tokens=511,
        reason="a" * (MAX_CONTEXT - 1),
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_an_ending_says_what_happened(name: str) -> None:
    ending = ENDINGS[name]
    output, deltas = answer(tiny.byte_level(), tokens_of(ending.pieces), A, **ending.params)
    assert (output.text, len(output.token_ids)) == (ending.text, ending.num_tokens)
    assert (output.finish_reason, output.stop_reason) == (ending.finish, ending.reason)
    assert "".join(delta.text for delta in deltas) == output.text
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + [output.finish_reason]
    assert [delta.stop_reason for delta in deltas] == [None] * (len(deltas) - 1) + [output.stop_reason]


@pytest.mark.parametrize(
    ("stop", "text"), [(X, "hello"), ("o " + X, "hell"), (X + " world", "hello"), ("lo world", "hello worlds")]
)
def test_special_tokens_are_found_where_a_decoder_looks_at_neighbors(stop: str, text: str) -> None:
    tokenizer = tiny.word_piece()
    script = tokenizer.encode(f"hello {X} worlds", special=AddSpecial.NO)
    output, deltas = answer(tokenizer, script, script[0], stop=stop)
    assert output.text == "".join(delta.text for delta in deltas) == (" " + text)
    assert output.stop_reason == (stop if text != "hello worlds" else None)


def aborted_after(num_steps: int, pieces: tuple[str, ...], **params: object) -> CompletionOutput:
    tokenizer = tiny.byte_level()
    core = make_core(ScriptedExecutor(tokens_of(pieces), tokenizer.vocab_size), tokenizer)
    core.submit(submission("a", (A,), **params))
    for _ in range(num_steps):
        core.step()
    output = core.abort("a")
    assert output is not None
    return output.outputs[0]


@pytest.mark.parametrize("stop", ["\ufffd", "abc"])
def test_an_aborted_completion_shows_what_was_held_back_and_has_no_stop_reason(stop: str) -> None:
    output = aborted_after(3, ("a", HALF), stop=stop)
    assert (output.text, output.finish_reason, output.stop_reason) == ("a\ufffd", FinishReason.ABORT, None)


def test_a_failed_completion_has_no_stop_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the error came after the token that would have stopped it."""
    advance = CompletionState.advance

    def failing_advance(state: CompletionState, token_ids: list[int], logprobs: None) -> Progress:
        progress = advance(state, token_ids, logprobs)
        if progress.finish_reason is not None:
            raise UnicodeError("no such character")
        return progress

    monkeypatch.setattr(CompletionState, "advance", failing_advance)
    output, deltas = answer(tiny.byte_level(), tokens_of(("a", "b")), A, stop="b")
    assert (output.finish_reason, output.stop_reason) == (FinishReason.ERROR, None)
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == (FinishReason.ERROR, None)
