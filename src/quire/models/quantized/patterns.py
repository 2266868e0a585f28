"""Regular expressions that name modules, from files that are not trusted: none takes long to match.

    pattern = branch { "|" branch }
    branch  = { ("^" | "$" | atom) [ "*" | "+" | "?" ] [ "?" ] }        a second "?" (lazy) changes no answer
    atom    = "(" ["?:"] pattern ")" | "[" set "]" | "." | "\\" class | a plain character

Everything else (counted repetition, look-around, references) is refused. The state of a match is the set of positions in
the name that it may have reached, as the bits of an integer, so a step of an atom is a shift. Every step is paid for from a
budget, which all patterns of a config.json share. Patterns with one loop are left to `re`, which is faster.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from quire.errors import CheckpointError

MAX_PATTERN_CHARS = 1024
MAX_STEPS = 4_000_000
"""Of all matches together: about two seconds. The largest real models have 20,000 modules, and a few patterns."""

_STEPS_PER_CHAR = 100  # what parsing costs, and what each pattern costs besides
_CHARS_PER_PATTERN = 10
_MAX_SIMPLE_LOOPS = 1
_MAX_SIMPLE_BRANCHES = 6
_MAX_DEPTH = 16
_CLASSES = "dDwWsS"
_PLAIN = re.compile(r"[\w\-/:,#@%&=~!\"'<> ]")
_SET = re.compile(r"\[\^?\]?[^\[\]\\]*(?:\\[dwsDWS.\-_][^\[\]\\]*)*\]")


class Steps:
    """What the matches of a config's patterns may still cost."""

    def __init__(self, count: int = MAX_STEPS) -> None:
        self._num_left = count
        self._name: _Name | None = None

    def name(self, text: str) -> _Name:
        """Returns a name to be matched; several patterns in a row ask for the same one."""
        if self._name is None or self._name.text != text:
            self._name = _Name(text, self)
        return self._name

    def pay(self, count: int = 1) -> None:
        """Takes steps away; raises CheckpointError when there are none."""
        self._num_left -= count
        if self._num_left < 0:
            raise CheckpointError(
                "config.json: the patterns of quantization_config take too long to match",
                limit=f"{MAX_STEPS} steps",
                next_step="Write shorter patterns, or name the modules.",
            )


class _Name:
    """A name that is matched: position i is bit i of a set, and a step costs more the longer the name is."""

    def __init__(self, text: str, steps: Steps) -> None:
        self.text = text
        self.end = 1 << len(text)
        self._steps = steps
        self._cost = 1 + len(text) // 256
        self._places: dict[str, int] = {}
        for place, character in enumerate(text):
            self._places[character] = self._places.get(character, 0) | 1 << place
        self._matching: dict[re.Pattern[str], int] = {}

    def pay(self) -> None:
        self._steps.pay(self._cost)

    def places_of(self, character: re.Pattern[str]) -> int:
        """Returns the places whose character matches."""
        if character not in self._matching:
            found = 0
            for each, places in self._places.items():
                self.pay()
                found |= places if character.fullmatch(each) else 0
            self._matching[character] = found
        return self._matching[character]


_Advance = Callable[[_Name, int], int]


@dataclass(frozen=True, slots=True)
class ModulePattern:
    """One pattern; `simple` is its form for `re`, None where backtracking could take long."""

    simple: re.Pattern[str] | None
    _advance: _Advance
    _steps: Steps

    def matches_start(self, name: str) -> bool:
        """Whether the pattern matches at the start of a name, as `re.match` has it."""
        self._steps.pay()
        if self.simple is not None:
            return self.simple.match(name) is not None
        return bool(self._advance(self._steps.name(name), 1))

    def matches_anywhere(self, name: str) -> bool:
        """Whether the pattern matches somewhere in a name, as `re.search` has it."""
        self._steps.pay()
        whole = self._steps.name(name)
        return bool(self._advance(whole, 2 * whole.end - 1))


def parse_pattern(text: str, steps: Steps | None = None) -> ModulePattern:
    """Returns the pattern, whose matches are paid for from `steps`; raises ValueError with a short reason for one that is
    wrong or beyond what is understood.
    """
    if len(text) > MAX_PATTERN_CHARS:
        raise ValueError(f"is longer than {MAX_PATTERN_CHARS} characters")
    steps = Steps() if steps is None else steps
    steps.pay(_STEPS_PER_CHAR * (len(text) + _CHARS_PER_PATTERN))
    parser = _Parser(text)
    advance = parser.pattern(0)
    if parser.rest:
        raise ValueError(f"cannot be read from {parser.rest[:20]!r} on")
    is_simple = parser.num_loops <= _MAX_SIMPLE_LOOPS and parser.num_branches <= _MAX_SIMPLE_BRANCHES
    return ModulePattern(_compiled(text) if is_simple and not parser.repeats_group else None, advance, steps)


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
        return branches[0] if len(branches) == 1 else lambda name, positions: _union(branches, name, positions)

    def _branch(self, depth: int) -> _Advance:
        steps: list[_Advance] = []
        while self.rest and self.rest[0] not in "|)":
            if self.rest[0] in "^$(":
                is_group = self.rest[0] == "("
                step = self._group(depth) if is_group else self._boundary()
                steps.append(self._repeated(step, partial(_closure, step), is_group))
            else:
                character = _compiled(self._character())
                steps.append(self._repeated(partial(_advance_one, character), partial(_advance_all, character), False))

        def advance(name: _Name, positions: int) -> int:
            for step in steps:
                positions = step(name, positions)
            return positions

        return advance

    def _boundary(self) -> _Advance:
        if self._take("^"):
            return lambda _, positions: positions & 1
        self._take("$")
        return lambda name, positions: positions & name.end

    def _group(self, depth: int) -> _Advance:
        self._take("(")
        self._take("?:")
        inner = self.pattern(depth + 1)
        if not self._take(")"):
            raise ValueError("leaves a group open")
        return inner

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

    def _repeated(self, step: _Advance, closure: _Advance, is_group: bool) -> _Advance:
        """Returns what one step, or any number of steps from where one starts (`closure`), comes to with its sign."""
        sign = next((sign for sign in "*+?" if self._take(sign)), None)
        if sign is None:
            return step
        self._take("?")
        self.num_loops += 1
        self.repeats_group |= is_group
        if sign == "?":
            return lambda name, positions: positions | step(name, positions)
        if sign == "+":
            return lambda name, positions: closure(name, step(name, positions))
        return closure

    def _take(self, text: str) -> bool:
        found = self.rest.startswith(text)
        if found:
            self.rest = self.rest[len(text) :]
        return found


def _advance_one(character: re.Pattern[str], name: _Name, positions: int) -> int:
    name.pay()
    return (positions & name.places_of(character)) << 1


def _advance_all(character: re.Pattern[str], name: _Name, positions: int) -> int:
    """Returns what any number of such characters reaches: 1, then 2, then 4 of them at once, wherever so many are in a row."""
    in_a_row, count = name.places_of(character), 1
    while in_a_row:
        name.pay()
        positions |= (positions & in_a_row) << count
        in_a_row &= in_a_row >> count
        count *= 2
    return positions


def _union(branches: list[_Advance], name: _Name, positions: int) -> int:
    reached = 0
    for branch in branches:
        reached |= branch(name, positions)
    return reached


def _closure(step: _Advance, name: _Name, positions: int) -> int:
    """Returns what any number of further steps reaches."""
    reached = positions
    while positions := step(name, positions) & ~reached:
        name.pay()
        reached |= positions
    return reached
