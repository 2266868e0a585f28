"""What all endpoints share: the engine, the names it is served under, the limits, and whether the server takes requests."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from quire.engine.async_engine import AsyncEngine
from quire.errors import RequestError
from quire.server.admission import Admission
from quire.server.diagnostics_digests import Digester
from quire.server.diagnostics_notes import PromptNote, PromptNotes, settle
from quire.server.errors import ApiError, Refusal
from quire.server.limits import Limits
from quire.server.observer import Observer
from quire.server.render import AnswerSource
from quire.server.responses.store import ResponseStore
from quire.server.runs import Runs, shutting_down
from quire.server.text_bound import text_bound
from quire.server.workers import Workers

_MAX_NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """The names of the model; where none was `chosen` at the start, every name means this model.

    `recommended` are sampling parameters for requests that leave them out.
    """

    names: tuple[str, ...]
    is_chosen: bool = False
    recommended: Mapping[str, float] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))

    def name_for(self, asked: str | None) -> str:
        """Returns the name that an answer carries; raises ApiError (404) for a name that is not served."""
        if asked in self.names:
            return asked
        if asked is None or not self.is_chosen:
            return self.names[0]
        raise ApiError(
            "there is no model of this name here",
            limit=", ".join(self.names[:_MAX_NAMES_SHOWN]),
            next_step="Use one of these names.",
            refusal=Refusal(status=404, param="model", code="model_not_found"),
        )


class Service:
    """The state of a server, as an async context manager that closes the engine. Only `begin_drain` changes what it does.

    `stored` is None where no response is kept.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        model: ServedModel,
        limits: Limits | None = None,
        observer: Observer | None = None,
        *,
        keeps_responses: bool = True,
    ) -> None:
        self.engine = engine
        self.model = model
        self.limits = Limits() if limits is None else limits
        self.workers = Workers(self.limits)
        self.runs = Runs(Admission(self.limits))
        self.stored = ResponseStore(self.limits) if keeps_responses else None
        self.observer = Observer() if observer is None else observer
        self.metrics = self.observer.metrics
        self.metrics.engine.watch(engine.core)
        self.digester = Digester()
        self.notes = PromptNotes(self.limits)
        self.is_draining = False
        core = engine.core
        self.max_context: int = core.scheduler.limits.max_tokens
        self.vocab_size: int = core.executor.spec.vocab_size
        self.text_bound = text_bound(engine.tokenizer, self.max_context)
        self.source = AnswerSource(tokenizer=engine.tokenizer, block_size=core.scheduler.limits.block_size)
        self.fingerprint = None if engine.fingerprint is None else f"fp_{engine.fingerprint.hex()[:16]}"

    def warm_up(self) -> None:
        """Compiles the chat template, and keeps what is in memory now out of garbage collections."""
        with suppress(RequestError):  # a model without a template, or one that refuses this chat
            self.engine.frontend.chat_prompt([{"role": "user", "content": "Hi"}], {})
        gc.collect()
        gc.freeze()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.workers.close()
        await self.engine.close()
        gc.unfreeze()  # the interpreter's last collection reaches everything again

    def require_open(self) -> None:
        """Raises ApiError where no request is taken: 503 while the server ends, 429 while it has too many."""
        if self.is_draining:
            raise shutting_down()
        self.runs.admission.require_room(time.monotonic())

    def reading(self, tenant: str, num_bytes: int | None) -> AbstractContextManager[None]:
        """Keeps a place in the queue while a request is read; entering it raises ApiError as `require_open`."""
        if self.is_draining:
            raise shutting_down()
        return self.runs.admission.reading(time.monotonic(), tenant, num_bytes)

    @contextmanager
    def noted(self, note: PromptNote | None) -> Iterator[None]:
        """Keeps a note on an answer while it is computed, and with the note then what the cache did."""
        noted = None if note is None else self.notes.put(note)
        try:
            yield
        finally:
            if noted is not None:
                settle(noted, self.engine)

    def begin_drain(self) -> None:
        """Takes no more requests; those that run go on."""
        self.is_draining = True

    @property
    def trouble(self) -> str | None:
        """Why the engine makes no progress; None while it does, or has nothing to do."""
        if not self.engine.is_alive:
            return "the engine has ended"
        if self.engine.step_s > self.limits.stall_s:
            return f"the engine has been in one step for more than {self.limits.stall_s:g} s"
        return None
