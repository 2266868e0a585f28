"""Quire: an LLM inference engine built around the KV cache.

Public names load on first use (PEP 562), so `import quire` costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quire.engine.async_engine import AsyncEngine
    from quire.engine.causal_model import load_model
    from quire.engine.llm import LLM
    from quire.engine.past_kvs import PastKVs
    from quire.engine.scores import Score
    from quire.errors import QuireError
    from quire.request import CompletionOutput, FinishReason, RequestOutput, SamplingParams

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncEngine",
    "CompletionOutput",
    "FinishReason",
    "PastKVs",
    "QuireError",
    "RequestOutput",
    "SamplingParams",
    "Score",
    "__version__",
    "load_model",
]

_HOMES = (
    ("quire.engine.async_engine", ("AsyncEngine",)),
    ("quire.engine.llm", ("LLM",)),
    ("quire.engine.causal_model", ("load_model",)),
    ("quire.engine.past_kvs", ("PastKVs",)),
    ("quire.engine.scores", ("Score",)),
    ("quire.errors", ("QuireError",)),
    ("quire.request", ("CompletionOutput", "FinishReason", "RequestOutput", "SamplingParams")),
)


def __getattr__(name: str) -> Any:
    for home, names in _HOMES:
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'quire' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
