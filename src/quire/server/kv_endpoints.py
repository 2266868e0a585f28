"""`GET /v1/kv/...`: where the cache's memory is, and what it did for the answers of the asking key.

map                                      blocks by state; one by one only where there is a single key, since who holds what
                                         would tell the others what a key computes
holdings                                 what requests, tenants and prefixes hold; sums only where there are several keys
ledger                                   recent answers, the newest first
explain/{id}[?compared_with={id}]        one answer of any API, and where its prompt parts from that of another
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quire.engine.core import EngineCore
from quire.engine.engine_thread import FoundT
from quire.engine.kv_ledger import kv_ledger
from quire.engine.kv_map import KVMap, kv_map
from quire.errors import RequestError
from quire.kv.explain import Admission, sentence, without_names
from quire.server.diagnostics import change_of, num_equal
from quire.server.diagnostics_notes import Explanations, NotedAnswer, PromptNote
from quire.server.errors import ApiError, Refusal, refuse
from quire.server.gate import TENANT
from quire.server.kv_holdings import holdings_fields
from quire.server.limits import MAX_LABEL_CHARS
from quire.server.render import to_json
from quire.server.runs import shutting_down
from quire.server.service import Service

_DEFAULT_ROWS = 256
_BYTES_PER_ROW = 150
"""A guess, for the decision where to write an answer."""

MAX_FIRST = 2**31
"""The largest row at which a page begins."""


class KVEndpoints:
    """The handlers of `/v1/kv`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._num_looks = 0

    def routes(self) -> list[Route]:
        """Returns the routes."""
        return [
            Route("/v1/kv/map", self._map),
            Route("/v1/kv/holdings", self._holdings),
            Route("/v1/kv/ledger", self._ledger),
            Route("/v1/kv/explain/{answer_id}", self._explain),
        ]

    async def _map(self, request: Request) -> Response:
        rows = self._rows(request)
        is_alone = not request.scope[TENANT]
        found = await self._look(lambda core: kv_map(core, rows if is_alone else range(0)))
        return await self._written(len(found.blocks), lambda: _map_fields(found, rows if is_alone else None))

    async def _holdings(self, request: Request) -> Response:
        rows = None if request.scope[TENANT] else self._rows(request)
        found, tokenizer = await self._look(kv_ledger), self._service.engine.tokenizer
        num_rows = 0 if rows is None else 2 * len(rows)
        return await self._written(num_rows, lambda: holdings_fields(found, rows, tokenizer))

    async def _look(self, look: Callable[[EngineCore], FoundT]) -> FoundT:
        """Returns what is found after the step that runs; raises ApiError (429) where too many wait for that."""
        if self._num_looks >= self._service.limits.kv_looks:
            raise ApiError(
                "too many requests wait for a look at the cache",
                limit=self._service.limits.kv_looks,
                next_step="Try again later.",
                refusal=Refusal(status=429, code="overloaded", headers={"retry-after": "1", "retry-after-ms": "1000"}),
            )
        self._num_looks += 1
        try:
            return await self._service.engine.look(look)
        except RequestError as error:  # there is nothing else to refuse
            raise shutting_down() from error
        finally:
            self._num_looks -= 1

    async def _ledger(self, request: Request) -> Response:
        rows = self._rows(request)
        found = self._service.notes.newest(request.scope[TENANT], rows.start, len(rows) + 1)
        return await self._written(len(found), lambda: self._page(found, rows))

    def _page(self, found: list[NotedAnswer], rows: range) -> dict[str, Any]:
        shown = found[: len(rows)]
        data = [_summary(noted.note, self._explanations(noted)) for noted in shown]
        return {"object": "list", "data": data, "first": rows.start, "has_more": len(found) > len(shown)}

    async def _explain(self, request: Request) -> Response:
        noted = self._noted(request, request.path_params["answer_id"], "id")
        other_id = request.query_params.get("compared_with")
        other = None if other_id is None else self._noted(request, other_id, "compared_with")
        explanations = self._explanations(noted)
        return await self._written(len(explanations), lambda: _explained(noted.note, explanations, other))

    def _explanations(self, noted: NotedAnswer) -> Explanations:
        """Returns what the cache did for each prompt of an answer; raises ApiError (503) where the engine has ended in it."""
        try:
            return noted.explain(self._service.engine)
        except RequestError as error:
            raise shutting_down() from error

    async def _written(self, num_rows: int, fields: Callable[[], object]) -> Response:
        body = await self._service.workers.finish(num_rows * _BYTES_PER_ROW, lambda: to_json(fields()))
        return Response(body, media_type="application/json")

    def _noted(self, request: Request, answer_id: str, param: str) -> NotedAnswer:
        """Returns what is known of an answer; raises ApiError (404), the same for one that never was and for another key's."""
        noted = self._service.notes.get(request.scope[TENANT], answer_id) if len(answer_id) <= MAX_LABEL_CHARS else None
        if noted is None:
            raise ApiError(
                "no answer of this id is known (any more)",
                next_step="GET /v1/kv/ledger lists those that are.",
                refusal=Refusal(status=404, param=param, code="answer_not_found"),
            )
        return noted

    def _rows(self, request: Request) -> range:
        """Returns the rows that a page shows, by `first` and `limit`."""
        limits = self._service.limits
        first = _number(request, "first", default=0, least=0, most=MAX_FIRST)
        limit = _number(request, "limit", default=min(_DEFAULT_ROWS, limits.kv_rows), least=1, most=limits.kv_rows)
        return range(first, first + limit)


def _number(request: Request, name: str, *, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
    if not is_number or not least <= int(text) <= most:
        raise refuse(f"{name} must be from {least} to {most}", f"Pass {name} within that range.", param=name)
    return int(text)


def _map_fields(found: KVMap, rows: range | None) -> dict[str, Any]:
    usage, size = found.usage, found.block_size
    fields: dict[str, Any] = {
        "object": "kv.map",
        "block_size": size,
        "bytes_per_block": usage.bytes_per_block,
        "num_blocks": found.num_blocks,
        "used": {"blocks": usage.num_used_blocks, "tokens": found.num_used_tokens, "bytes": usage.used_bytes},
        "cached": {"blocks": usage.num_cached_blocks, "tokens": found.num_cached_tokens, "bytes": usage.cached_bytes},
        "empty": {"blocks": usage.num_empty_blocks, "tokens": 0, "bytes": usage.empty_bytes},
        "blocks": None,
        "next": None,
    }
    if rows is not None:
        fields["blocks"] = [
            {"id": block.block_id, "state": block.state, "tokens": block.num_tokens, "holders": block.num_holders}
            for block in found.blocks
        ]
        fields["next"] = rows.stop if rows.stop < found.num_blocks else None
    return fields


def _summary(note: PromptNote, explanations: Explanations) -> dict[str, Any]:
    """Returns one row of the ledger. The reasons are those of its prompts, each once."""
    known = [explanation for explanation in explanations if explanation is not None]
    return {
        "id": note.answer_id,
        "object": "kv.ledger_entry",
        "created": note.created,
        "label": note.label,
        "prompts": len(note.lengths),
        "tokens": sum(note.lengths),
        "reused_tokens": sum(explanation.num_reused_tokens for explanation in known),
        "reasons": list(dict.fromkeys(explanation.reason.value for explanation in known)),
    }


def _explained(note: PromptNote, explanations: Explanations, other: NotedAnswer | None) -> dict[str, Any]:
    """Returns what the cache did for each prompt; nulls for one that waits, or that was forgotten while it ran."""
    prompts = [
        {"tokens": length, **_admission(None if explanation is None else explanation.first, length)}
        | {"admissions": [] if explanation is None else [sentence(without_names(each)) for each in explanation.admissions]}
        for length, explanation in zip(note.lengths, explanations, strict=True)
    ]
    head = {"id": note.answer_id, "object": "kv.explanation", "created": note.created, "label": note.label}
    comparison = {} if other is None else {"comparison": _comparison(other.note, note)}
    return {**head, "prompts": prompts, **comparison}


def _admission(first: Admission | None, length: int) -> dict[str, Any]:
    divergence, loss = (None, None) if first is None else (first.divergence, first.loss)
    return {
        "reused_tokens": None if first is None else first.num_reused_tokens,
        "copied_tokens": None if first is None else first.num_copied_tokens,
        "computed_tokens": None if first is None else length - first.num_reused_tokens,
        "reason": None if first is None else first.reason.value,
        "diverged_at": None if divergence is None else divergence.position,
        "diverged_text": None if divergence is None else divergence.text,
        "cached_text": None if divergence is None else divergence.cached_text,
        "evicted_steps_ago": None if loss is None else loss.num_steps_ago,
        "waited_for": 0 if first is None else len(first.waited_for),
        "text": None if first is None else sentence(without_names(first)),
    }


def _comparison(earlier: PromptNote, later: PromptNote) -> dict[str, Any]:
    """Returns where the later prompt parts from the earlier one; null where one goes on from the other, or they are equal."""
    equal = num_equal(earlier, later)
    differs = equal < min(earlier.num_tokens, later.num_tokens)
    return {
        "id": earlier.answer_id,
        "tokens": earlier.num_tokens,
        "equal_tokens": equal,
        "first_differing_token": equal if differs else None,
        "changed": change_of(earlier.chat, later.chat).value if differs else None,
        "same_salt": earlier.salt == later.salt,
    }
