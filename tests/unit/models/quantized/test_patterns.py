"""Patterns of module names agree with `re`, and cost little however they are written."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import CheckpointError
from quire.models.quantized.patterns import Steps, parse_pattern

_NAMES = ("model.layers.10.mlp.down_proj", "model.layers.1.self_attn.q_proj", "lm_head", "", "model.embed_tokens", "aaaab")
_PATTERNS = (
    r".*mlp.*", r".*layers\.\d+\.mlp\.(gate|up|down)_proj$", r"model\.layers\.(?:0|1|2)\..*", r"^lm_head$", 
    r"lm_head|model\.embed.*",
    r"[a-z]+\.[^.]*\.1?0?.*", r".*\.self_attn\.[qkv]_proj", r"(a|b)*b", r"(a*)*$", r"x?", r".*?head", r"\w+\.layers", 
    r"", r"(ab|a)+b",
)  # fmt: skip


@pytest.mark.parametrize("pattern", _PATTERNS)
@pytest.mark.parametrize("name", _NAMES)
def test_published_patterns_mean_what_they_mean_to_re(pattern: str, name: str) -> None:
    parsed = parse_pattern(pattern)
    assert parsed.matches_start(name) is (re.match(pattern, name) is not None)


_ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\.", r"\w", "(a|b)", "(ab|b)", "^", "$", "(?:a*b)"])
_STEPS = st.tuples(_ATOMS, st.sampled_from(["", "*", "+", "?"])).filter(lambda step: step[0] not in "^$" or not step[1])


@given(steps=st.lists(_STEPS, max_size=5), name=st.text("ab.", max_size=7))
@settings(max_examples=300, deadline=None)
def test_random_patterns_mean_what_they_mean_to_re(steps: list[tuple[str, str]], name: str) -> None:
    pattern = "".join(atom + sign for atom, sign in steps)
    assert parse_pattern(pattern).matches_start(name) is (re.match(pattern, name) is not None)


@pytest.mark.parametrize("pattern", ["layers", "up_proj$", "^model", r"(\d+)\.mlp", "x", "(a|b)*b$", ""])
@pytest.mark.parametrize("name", _NAMES)
def test_patterns_are_found_anywhere_as_re_finds_them(pattern: str, name: str) -> None:
    assert parse_pattern(pattern).matches_anywhere(name) is (re.search(pattern, name) is not None)


def test_pattern_that_would_backtrack_for_ever_ends() -> None:
    parsed = parse_pattern("(a+)+(a+)+" * 20 + "$")
    assert not parsed.matches_start("a" * 200 + "b")


@pytest.mark.parametrize("pattern", ["(a+)+(a+)+$", "(a*b?)*" * 50, "((((((((a*)*b)*)*)*)*)*)*)*", "a?" * 500, "x"])
def test_matches_of_all_patterns_together_are_paid_for(pattern: str) -> None:
    steps = Steps(300_000)
    patterns = [parse_pattern(pattern, steps) for _ in range(2)]

    def match_all() -> None:
        for number in range(300_000):
            patterns[number % 2].matches_start(f"{'a' * 300}.{number}")

    with pytest.raises(CheckpointError, match="take too long to match"):
        match_all()


def test_parsing_is_paid_for_too() -> None:
    steps = Steps(300_000)
    with pytest.raises(CheckpointError, match="take too long to match"):
        [parse_pattern(f"{'a' * number}.*", steps) for number in range(1000)]


@pytest.mark.parametrize(
    "pattern", ["(", "a)", "*a", "a{3}", "(?=a)", "(?P<n>a)", r"\1", "[", "[]", "\\", "a**", "(" * 50, "a" * 2000]
)
def test_what_is_not_understood_is_refused_with_a_reason(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_pattern(pattern)
