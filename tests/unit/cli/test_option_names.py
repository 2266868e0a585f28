"""Options in errors, as people type them; other text stays what it is."""

from __future__ import annotations

import pytest

from quire.cli.option_names import as_typed
from quire.cli.run import run
from quire.cli.train import train


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Pass max_context <= 5 or leave it out.", "Pass --max-context <= 5 or leave it out."),
        ("Pass executor='reference'.", "Pass --executor reference."),
        ('Write kv_cache="off".', "Write --kv-cache off."),
        ("(given: quantize=int4; limit: 3)", "(given: --quantize int4; limit: 3)"),
        ("given: top_p=0.5", "given: --top-p 0.5"),
        ("Raise kv_memory.", "Raise --kv-memory."),
        ("max_num_seqs, max_num_batched_tokens", "--max-num-seqs, --max-num-batched-tokens"),
    ],
)
def test_options_are_spelled_as_on_the_command_line(message: str, expected: str) -> None:
    assert as_typed(message, run) == expected


@pytest.mark.parametrize(
    "message",
    [
        "There is no such directory (given: /models/max_context/7b).",
        "Use another number of threads, a seed or a stop text.",
        "given: 'max_context'",
        "--max-context 5 and my_max_context and max_context_of(x)",
        "config.json asks for max_context.bin",
        "Set QUIRE_THREADS=4.",
    ],
)
def test_other_text_stays(message: str) -> None:
    assert as_typed(message, run) == message


def test_only_options_that_the_command_has_are_spelled() -> None:
    message = "Raise learning_rate or kv_memory."
    assert as_typed(message, train) == "Raise --learning-rate or kv_memory."
    assert as_typed(message, run) == "Raise learning_rate or --kv-memory."
