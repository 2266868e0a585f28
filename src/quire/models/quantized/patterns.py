"""Regular expressions that name modules, from files that are not trusted: none takes long to match.

    pattern = branch { "|" branch }
    branch  = { ("^" | "$" | atom) [ "*" | "+" | "?" ] [ "?" ] }        a second "?" (lazy) changes no answer
    atom    = "(" ["?:"] pattern ")" | "[" set "]" | "." | "\\" class | a plain character

Everything else (counted repetition, look-around, references) is refused. The state of a match is the set of positions in
the name that it may have reached, so a name of n characters costs at most n steps per atom. Patterns so simple that
backtracking cannot take long are left to `re`, which is faster.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

Positions = frozenset[int]
_Advance = Callable[[str, Positions], Positions]

MAX_PATTERN_CHARS = 1024
MAX_NAME_CHARS = 256
_MAX_SIMPLE_LOOPS = 2
_MAX_SIMPLE_BRANCHES = 6
_MAX_DEPTH = 16
_CLASSES = "dDwWsS"
_PLAIN = re.compile(r"[\w\-/:,#@%&=~!\"'<> ]")
_SET = re.compile(r"\[\^?\]?[^\[\]\\]*(?:\\[dwsDWS.\-_][^\[\]\\]*)*\]")


@dataclass(frozen=True, slots=True)
class ModulePattern:
    """One pattern; `simple` is its form for `re`, None where backtracking could take long."""

    simple: re.Pattern[str] | None
    _advance: _Advance

    def matches_start(self, name: str) -> bool:
        """Whether the pattern matches at the start of a name, as `re.match` has it."""
        if self.simple is not None and len(name) <= MAX_NAME_CHARS:
            return self.simple.match(name) is not None
        return bool(self._advance(name, frozenset((0,))))

    def matches_anywhere(self, name: str) -> bool:
        """Whether the pattern matches somewhere in a name, as `re.search` has it."""
        if self.simple is not None and len(name) <= MAX_NAME_CHARS:
            return self.simple.search(name) is not None
        return bool(self._advance(name, frozenset(range(len(name) + 1))))


def parse_pattern(text: str) -> ModulePattern:
    """Returns the pattern; raises ValueError with a short reason for one that is wrong or beyond what is understood."""
    if len(text) > MAX_PATTERN_CHARS:
        raise ValueError(f"is longer than {MAX_PATTERN_CHARS} characters")
    parser = _Parser(text)
    advance = parser.pattern(0)
    if parser.rest:
        raise ValueError(f"cannot be read from {parser.rest[:20]!r} on")
    is_simple = parser.num_loops <= _MAX_SIMPLE_LOOPS and parser.num_branches <= _MAX_SIMPLE_BRANCHES
    return ModulePattern(_compiled(text) if is_simple and not parser.repeats_group else None, advance)


def _compiled(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error.msg}") from error


class _Parser:
    """Reads a pattern from left to right; `rest` is what has not been read, the others count what makes backtracking slow."""

    def __init__(self, text: str) -> None:
        self.rest = text
        self.num_loops = self.num_branches = 0
        self.repeats_group = False

    def pattern(self, depth: int) -> _Advance:
        if depth > _MAX_DEPTH:
            raise ValueError("nests groups too deeply")
        branches = [self._branch(depth)]
        while self._take("|"):
            self.num_branches += 1
            branches.append(self._branch(depth))
        return lambda name, positions: frozenset().union(*(branch(name, positions) for branch in branches))

    def _branch(self, depth: int) -> _Advance:
        steps: list[_Advance] = []
        while self.rest and self.rest[0] not in "|)":
            is_group = self.rest[0] == "("
            steps.append(self._repeated(self._atom(depth), is_group))

        def advance(name: str, positions: Positions) -> Positions:
            for step in steps:
                positions = step(name, positions)
            return positions

        return advance

    def _atom(self, depth: int) -> _Advance:
        if self._take("^"):
            return lambda _, positions: positions & {0}
        if self._take("$"):
            return lambda name, positions: positions & {len(name)}
        if self._take("("):
            self._take("?:")
            inner = self.pattern(depth + 1)
            if not self._take(")"):
                raise ValueError("leaves a group open")
            return inner
        return _one_character(_compiled(self._character()))

    def _character(self) -> str:
        """Returns the next atom that is one character wide, as `re` writes it."""
        if self._take("."):
            return "."
        found = _SET.match(self.rest) or _PLAIN.match(self.rest)
        if found is not None:
            self.rest = self.rest[found.end() :]
            return found[0]
        if len(self.rest) > 1 and self.rest[0] == "\\" and (self.rest[1] in _CLASSES or not self.rest[1].isalnum()):
            escaped, self.rest = self.rest[:2], self.rest[2:]
            return escaped
        raise ValueError(f"holds {self.rest[:2]!r}, which Quire does not match")

    def _repeated(self, step: _Advance, is_group: bool) -> _Advance:
        sign = next((sign for sign in "*+?" if self._take(sign)), None)
        if sign is None:
            return step
        self._take("?")
        self.num_loops += 1
        self.repeats_group |= is_group
        if sign == "?":
            return lambda name, positions: positions | step(name, positions)
        if sign == "+":
            return lambda name, positions: _closure(step, name, step(name, positions))
        return lambda name, positions: _closure(step, name, positions)

    def _take(self, text: str) -> bool:
        found = self.rest.startswith(text)
        if found:
            self.rest = self.rest[len(text) :]
        return found


def _one_character(character: re.Pattern[str]) -> _Advance:
    return lambda name, positions: frozenset(
        position + 1 for position in positions if position < len(name) and character.fullmatch(name, position, position + 1)
    )


def _closure(step: _Advance, name: str, positions: Positions) -> Positions:
    """Returns what any number of further steps reaches."""
    reached = positions
    while positions := step(name, positions) - reached:
        reached |= positions
    return reached
