"""The child's side of the protocol: open an engine, warm it up, answer until nobody asks any more."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any, TextIO

from .protocol import Contestant, Entry, Task, reason
from .roster import opener

_WARM_UP_TOKENS, _WARM_UP_STEPS = 16, 3


def serve(engine: str, entry: Entry) -> None:
    """Opens a contestant and answers requests until standard input ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        contestant = opener(engine)(entry)
        prompt_length = min(_WARM_UP_TOKENS, entry.max_tokens - _WARM_UP_STEPS)
        contestant.run(Task(prompts=[[7] * prompt_length], num_new=_WARM_UP_STEPS))
    except Exception as error:
        _answer(answers, {"failed": reason(error)})
        return
    _answer(answers, {"ready": contestant.facts})
    for line in sys.stdin:
        _answer(answers, _reading(contestant, json.loads(line)))


def _reading(contestant: Contestant, request: dict[str, Any]) -> dict[str, object]:
    try:
        return asdict(contestant.run(Task(**request)))
    except Exception as error:
        return {"failed": reason(error)}


def _answer(stream: TextIO, value: dict[str, object]) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()
