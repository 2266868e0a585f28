"""The KV cache manager: the one owner of "which request, or row of `past_kvs`, holds which blocks".

    open -> match -> admit -> (reserve -> commit)* -> release -> close
                       ^________________________________|   preempted requests come back

    open | fork -> reserve -> close                         a row, without a request

Every verb that may run out checks first and acts afterwards: it succeeds whole, or returns None and has done nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from quire.config import PrefixCache
from quire.errors import defect
from quire.kv.block import Block
from quire.kv.explain import CacheExplanation, Facts, Unexplained
from quire.kv.hashing import CacheDomain, block_key
from quire.kv.layout import KVLayout
from quire.kv.ledger import KVUsage, Ledger
from quire.kv.pool import BlockPool
from quire.request import Request
from quire.units import cdiv


class BlockTable:
    """The blocks of one request, and the key of each of its full blocks, computed once and kept over preemptions.

    blocks         [M] held now; block i holds tokens [i * block_size, (i + 1) * block_size)
    block_ids      the same as ids; one tuple until a block is added
    capacity       tokens the blocks hold
    num_committed  blocks [0, num_committed) were written and offered to the pool
    num_pending  blocks [num_committed, num_pending) are being computed, and others may wait for them
    """

    __slots__ = ("block_ids", "blocks", "capacity", "keys", "num_committed", "num_pending", "root")

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.keys: list[bytes] = []
        self.blocks: list[Block] = []
        self.block_ids: tuple[int, ...] = ()
        self.capacity = 0
        self.num_committed = 0
        self.num_pending = 0

    def parent(self, block_idx: int) -> bytes:
        """Returns the key of the block before `block_idx`, or the domain's root."""
        return self.keys[block_idx - 1] if block_idx else self.root

    def set_blocks(self, blocks: list[Block], block_size: int) -> None:
        """Replaces the held blocks; the ids and the capacity follow."""
        self.blocks = blocks
        self.block_ids = tuple([block.id for block in blocks])
        self.capacity = len(blocks) * block_size

    def hash_blocks(self, request: Request, num_blocks: int, block_size: int) -> None:
        """Extends `keys` to the first `num_blocks` blocks of the request."""
        for block_idx in range(len(self.keys), num_blocks):
            self.keys.append(block_key(self.parent(block_idx), block_tokens(request, block_idx, block_size)))


def block_tokens(request: Request, block_idx: int, block_size: int) -> tuple[int, ...]:
    """Returns the tokens of a full block of a request."""
    return tuple(request.token_ids(block_idx * block_size, (block_idx + 1) * block_size))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixMatch:
    """The blocks of a request's prefix found in the cache: tokens [0, num_tokens). Finding changes nothing.

    `missing_key` is the key of the first block that was looked for and not found; None when there was no such block.
    """

    blocks: tuple[Block, ...] = ()
    num_tokens: int = 0
    missing_key: bytes | None = None


class KVCacheManager:
    """All open block tables over one pool. `fingerprint` names weights, formats and numerics (see CacheDomain)."""

    def __init__(self, pool: BlockPool, *, fingerprint: bytes, prefix_cache: PrefixCache = PrefixCache.ON) -> None:
        self.pool = pool
        self.prefix_cache = prefix_cache
        self.ledger = Ledger()
        self.fingerprint = fingerprint
        self._tables: dict[str, BlockTable] = {}
        self._pending_keys: Counter[bytes] = Counter()  # keys of blocks that running requests are computing

    def begin_step(self, step: int) -> None:
        """Stamps the events that follow with a step number."""
        self.pool.events.step = step

    def abandon_step(self) -> None:
        """Notes that the step was taken back, once its blocks are."""
        self.pool.events.record_abandoned_step()

    # -- a table's life ------------------------------------------------------------

    def open(self, request_id: str, *, tenant: str = "", salt: str = "") -> None:
        """Starts an empty table."""
        table = self._start(request_id, CacheDomain(fingerprint=self.fingerprint, tenant=tenant, salt=salt).root())
        self.ledger.open(request_id, table.root, tenant)

    def fork(self, parent_id: str, child_id: str, num_blocks: int) -> None:
        """Starts a table that shares the first `num_blocks` blocks of another; the caller decides which of the two writes there.

        Not with a prefix cache: there `match` shares blocks by their content, once nothing more is written to them.
        """
        parent = self._tables[parent_id]
        if self.prefix_cache is PrefixCache.ON or num_blocks > len(parent.blocks):
            facts = f"it holds {len(parent.blocks)}, prefix cache {self.prefix_cache.value}"
            raise defect(f"request {child_id} cannot share {num_blocks} blocks of {parent_id}: {facts}")
        child = self._start(child_id, parent.root)
        for block in parent.blocks[:num_blocks]:
            self.pool.share(block, child_id)
        child.set_blocks(parent.blocks[:num_blocks], self.pool.block_size)

    def close(self, request_id: str) -> None:
        """Releases what the request holds and forgets its table. Committed content stays findable."""
        self.release(request_id)
        self.ledger.close(request_id)
        del self._tables[request_id]

    def block_ids(self, request_id: str) -> tuple[int, ...]:
        """Returns the request's block table."""
        return self._tables[request_id].block_ids

    def explain(self, request_id: str) -> CacheExplanation | Unexplained:
        """Returns what the cache did for a request each time it was let in, or why that is not known."""
        return self.ledger.explain(request_id)

    def take_back_admission(self, request: Request) -> None:
        """Notes that an admission was taken back, so that nothing was reused."""
        self.ledger.take_back(request.request_id)
        request.num_cached_tokens = self.ledger.num_cached_tokens(request.request_id)

    def take_place_of(self, other: KVCacheManager) -> None:
        """Goes on with the log and the ledger of a manager that is given up. This one must be new."""
        self.ledger.take_place_of(other.ledger, other.pool.events.step)
        self.pool.take_place_of(other.pool)

    def usage(self, layout: KVLayout) -> KVUsage:
        """Returns where the pool's bytes are now."""
        pool = self.pool
        return KVUsage.of(layout, num_blocks=pool.num_blocks, num_free=pool.num_free, num_cached=pool.num_cached)

    # -- finding -------------------------------------------------------------------

    def match(self, request: Request) -> PrefixMatch:
        """Finds the longest cached prefix in whole blocks. It never covers a token whose logits are still wanted."""
        if self.prefix_cache is PrefixCache.OFF:
            return PrefixMatch()
        size = self.pool.block_size
        table = self._tables[request.request_id]
        table.hash_blocks(request, request.num_tokens // size, size)
        found: list[Block] = []
        for block_idx in range(request.first_logits_at // size):
            key = table.keys[block_idx]
            block = self.pool.find(key, block_tokens(request, block_idx, size))
            if block is None:
                return PrefixMatch(blocks=tuple(found), num_tokens=block_idx * size, missing_key=key)
            found.append(block)
        return PrefixMatch(blocks=tuple(found), num_tokens=len(found) * size)

    def is_being_computed(self, match: PrefixMatch) -> bool:
        """Whether a request that holds blocks now will commit the first block that the match lacks."""
        return match.missing_key is not None and match.missing_key in self._pending_keys

    # -- holding -------------------------------------------------------------------

    def admit(self, request: Request, match: PrefixMatch, num_tokens: int, num_kept: int = 0) -> tuple[int, ...] | None:
        """Shares the matched blocks and allocates the rest for tokens [0, num_tokens); None when the request does not fit now.

        A request is let in only when blocks for *all* its tokens are free beside the `num_kept` that prompts on their way will
        need, so that none is preempted there.
        """
        size, request_id = self.pool.block_size, request.request_id
        table = self._tables[request_id]
        num_revived = sum(block.ref_count == 0 for block in match.blocks)
        if cdiv(request.num_tokens, size) - len(match.blocks) + num_revived > self.pool.num_free - num_kept:
            return None
        self._note_admission(request, match)
        for block in match.blocks:
            self.pool.share(block, request_id)
        added = self.pool.allocate(cdiv(num_tokens, size) - len(match.blocks), request_id, table.root)
        if table.blocks or added is None:
            raise defect(f"request {request_id} is admitted but holds blocks already, or counted blocks are missing")
        table.set_blocks([*match.blocks, *added], size)
        table.num_committed = len(match.blocks)
        if self.prefix_cache is PrefixCache.ON:
            self._add_pending(table)
        return table.block_ids

    def reserve(self, request_id: str, num_tokens: int) -> tuple[int, ...] | None:
        """Grows the table to hold tokens [0, num_tokens) and returns it; None when too few blocks are free."""
        table = self._tables[request_id]
        if num_tokens > table.capacity:
            size = self.pool.block_size
            added = self.pool.allocate(cdiv(num_tokens - table.capacity, size), request_id, table.root)
            if added is None:
                return None
            table.set_blocks([*table.blocks, *added], size)
        return table.block_ids

    def commit(self, request: Request, num_written: int) -> None:
        """Makes the blocks findable that tokens [0, num_written), all written now, have filled since the last commit."""
        size = self.pool.block_size
        table = self._tables[request.request_id]
        num_full = num_written // size
        if num_full <= table.num_committed:
            return
        if num_written > table.capacity:
            raise defect(f"request {request.request_id} commits {num_written} tokens but holds room for {table.capacity}")
        if self.prefix_cache is PrefixCache.ON:
            table.hash_blocks(request, num_full, size)
            for block_idx in range(table.num_committed, num_full):
                key, token_ids = table.keys[block_idx], block_tokens(request, block_idx, size)
                self.pool.commit(table.blocks[block_idx], table.parent(block_idx), key, token_ids, request.request_id)
            self._drop_pending(table, num_full)
        table.num_committed = num_full

    def trim(self, request_id: str, num_blocks: int) -> None:
        """Gives back the blocks from index `num_blocks` on, which must not have been written; undoes `reserve`."""
        table = self._tables[request_id]
        if num_blocks < table.num_committed:
            raise defect(f"request {request_id} gives back blocks that were committed")
        self._release_from(table, num_blocks, request_id)

    def release(self, request_id: str) -> None:
        """Gives back all blocks, tails first. The keys stay, so coming back hashes nothing again."""
        table = self._tables[request_id]
        self._drop_pending(table, table.num_pending)
        table.num_committed = table.num_pending = 0
        self._release_from(table, 0, request_id)

    # -- integrity -----------------------------------------------------------------

    def check(self) -> None:
        """Raises IntegrityError unless tables, reference counts and pending keys agree."""
        self.pool.check()
        holders = Counter(block.id for table in self._tables.values() for block in table.blocks)
        for block in self.pool.blocks:
            if block.ref_count != holders[block.id]:
                raise defect(f"block {block.id} has ref_count {block.ref_count} but is in {holders[block.id]} tables")
        pending: Counter[bytes] = Counter()
        for request_id, table in self._tables.items():
            pending.update(table.keys[table.num_committed : table.num_pending])
            if table.block_ids != tuple(block.id for block in table.blocks) or table.num_committed > len(table.blocks):
                raise defect(f"the table of request {request_id} contradicts its blocks")
            for block, key in zip(table.blocks[: table.num_committed], table.keys, strict=False):
                if block.hash not in (None, key):
                    raise defect(f"block {block.id} of request {request_id} was committed under another key")
            if any(block.hash is not None for block in table.blocks[table.num_committed :]):
                raise defect(f"request {request_id} holds a committed block that it would write to")
        if pending != self._pending_keys:
            raise defect("pending keys differ from those of the blocks being computed")

    def check_idle(self, blocks: range) -> None:
        """Raises IntegrityError unless no request holds anything; of the pool it looks at its counts and the given blocks."""
        if self._tables or self._pending_keys:
            raise defect(f"{len(self._tables)} tables and {len(self._pending_keys)} pending keys are left over")
        self.pool.check_idle(blocks)

    # -- inside --------------------------------------------------------------------

    def _start(self, request_id: str, root: bytes) -> BlockTable:
        if request_id in self._tables:
            raise defect(f"request {request_id} has a table already")
        table = self._tables[request_id] = BlockTable(root)
        return table

    def _note_admission(self, request: Request, match: PrefixMatch) -> None:
        """Writes down what the cache does for a request, in the one place where it is done."""
        table, ledger, num_reused = self._tables[request.request_id], self.ledger, match.num_tokens
        limit = request.first_logits_at // self.pool.block_size * self.pool.block_size
        facts = Facts(request, table.root, table.parent(len(match.blocks)), num_reused, num_reused, 0, limit)
        ledger.admit(facts, self.pool if self.prefix_cache is PrefixCache.ON else None, self.pool.events.step)
        request.num_cached_tokens = ledger.num_cached_tokens(request.request_id)

    def _add_pending(self, table: BlockTable) -> None:
        table.num_pending = len(table.keys)
        for key in table.keys[table.num_committed : table.num_pending]:
            self._pending_keys[key] += 1

    def _drop_pending(self, table: BlockTable, until: int) -> None:
        for key in table.keys[table.num_committed : min(until, table.num_pending)]:
            self._pending_keys[key] -= 1
            if not self._pending_keys[key]:
                del self._pending_keys[key]

    def _release_from(self, table: BlockTable, num_kept: int, request_id: str) -> None:
        for block in reversed(table.blocks[num_kept:]):
            self.pool.release(block, request_id)
        table.set_blocks(table.blocks[:num_kept], self.pool.block_size)
