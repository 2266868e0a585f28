"""The KV ledger as tables: what requests hold, what tenants hold, and which prefixes stay for later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from quire.cli.display import facts, listing
from quire.engine.llm import LLM
from quire.kv.holdings import KVLedger
from quire.kv.prefixes import PrefixRun
from quire.request import RequestOutput
from quire.text.tokenizer import Tokenizer
from quire.units import format_bytes

if TYPE_CHECKING:
    from rich.table import Table

MAX_ROWS = 12
_SHOWN_CHARS = 36


class LedgerView:
    """The tables of one ledger; `tokenizer` makes the texts of prefixes."""

    def __init__(self, ledger: KVLedger, tokenizer: Tokenizer) -> None:
        self._ledger = ledger
        self._tokenizer = tokenizer

    def tables(self) -> Iterator[Table]:
        """Yields the tables that have rows, the pool first."""
        yield self.pool()
        if any(request.num_blocks for request in self._ledger.requests):
            yield self._requests()
        if len(self._ledger.tenants) > 1:
            yield self._tenants()
        if self._ledger.prefixes:
            yield self._prefixes()

    def pool(self) -> Table:
        """Returns where the pool's memory is, and how much of what is held is empty."""
        ledger, usage = self._ledger, self._ledger.usage
        num_blocks = usage.num_used_blocks + usage.num_cached_blocks + usage.num_empty_blocks
        rows = {
            "pool": f"{num_blocks} blocks of {ledger.block_size} tokens, {format_bytes(num_blocks * usage.bytes_per_block)}",
            "held": f"{usage.num_used_blocks} blocks, {format_bytes(usage.used_bytes)}, {ledger.num_held_tokens} tokens",
            "cached": f"{usage.num_cached_blocks} blocks, {format_bytes(usage.cached_bytes)}",
            "empty": f"{usage.num_empty_blocks} blocks, {format_bytes(usage.empty_bytes)}",
        }
        if usage.num_used_blocks:
            rows["unused"] = f"{ledger.num_empty_slots} slots of what is held, {ledger.waste:.1%}"
        if ledger.bytes_per_own_tile:
            own_bytes = format_bytes(ledger.num_own_tiles * ledger.bytes_per_own_tile)
            rows["own tiles"] = f"{ledger.num_own_tiles}, {own_bytes}"
        return facts("KV memory", rows)

    def _requests(self) -> Table:
        ledger = self._ledger
        held = [request for request in ledger.requests if request.num_blocks]
        rows = [
            (
                request.request_id,
                str(request.num_tokens),
                str(request.num_reused_tokens),
                f"{request.num_blocks} ({request.num_shared_blocks})",
                format_bytes(ledger.bytes_of(request.share, request.num_own_tiles)),
                str(request.num_empty_slots),
                "" if request.age_steps is None else str(request.age_steps),
            )
            for request in sorted(held, key=lambda request: -request.share)[:MAX_ROWS]
        ]
        headers = ("request", "tokens>", "reused>", "blocks (shared)>", "its share>", "empty slots>", "age in steps>")
        return listing(_titled("Held by requests", len(rows), len(held)), headers, rows)

    def _tenants(self) -> Table:
        ledger = self._ledger
        rows = [
            (
                "unknown" if tenant.tenant is None else tenant.tenant or "(none)",
                str(tenant.num_requests),
                str(tenant.num_tokens),
                str(tenant.num_reused_tokens),
                format_bytes(ledger.bytes_of(tenant.share, tenant.num_own_tiles)),
                str(tenant.num_cached_blocks),
            )
            for tenant in ledger.tenants[:MAX_ROWS]
        ]
        headers = ("tenant", "requests>", "tokens>", "reused>", "its share>", "cached blocks>")
        return listing(_titled("Held by tenants", len(rows), len(ledger.tenants)), headers, rows)

    def _prefixes(self) -> Table:
        runs = sorted(self._ledger.prefixes, key=lambda run: (run.idle_steps, -run.num_blocks))
        rows = [self._prefix(run) for run in runs[:MAX_ROWS]]
        headers = ("tokens", "begins with", "blocks (held)>", "requests>", "idle steps>", "evicted after")
        return listing(_titled("Prefixes, the last used first", len(rows), len(runs)), headers, rows)

    def _prefix(self, run: PrefixRun) -> tuple[str, ...]:
        text = self._tokenizer.decode(run.first_tokens, skip_special=False)
        return (
            f"{run.start} to {run.start + run.num_tokens}",
            repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."),
            f"{run.num_blocks} ({run.num_held_blocks})",
            str(run.num_holders),
            str(run.idle_steps),
            _turn(run),
        )


class LedgerSight:
    """Looks at the ledger while an answer is written, each time that twice as many outputs have come, so that it costs little."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._ledger: KVLedger | None = None

    def during(self, stream: Iterator[RequestOutput]) -> Iterator[RequestOutput]:
        """Passes a stream on."""
        for number, output in enumerate(stream, start=1):
            if number.bit_count() == 1:
                ledger = self._llm.kv_ledger()
                self._ledger = ledger if ledger.usage.num_used_blocks else self._ledger
            yield output

    def show(self) -> None:
        """Prints the tables of the last look on standard error, or of now where the answer ended at once."""
        from quire.cli.display import err_console

        ledger = self._llm.kv_ledger() if self._ledger is None else self._ledger
        for table in LedgerView(ledger, self._llm.tokenizer).tables():
            err_console().print(table)


def _turn(run: PrefixRun) -> str:
    """Returns when a run begins to be evicted if nothing asks for it."""
    if run.outlook is None:
        return "not while it is held"
    num_steps = run.outlook.num_steps
    estimate = "" if num_steps is None else f", about {num_steps:.0f} steps at the last pace"
    return f"{run.outlook.num_allocations} more blocks{estimate}"


def _titled(title: str, num_shown: int, num_rows: int) -> str:
    return title if num_shown == num_rows else f"{title}: {num_shown} of {num_rows}"
