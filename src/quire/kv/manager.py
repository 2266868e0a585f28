"""The KV cache manager: the one owner of "which request, or row of `past_kvs`, holds which blocks".

    open -> match -> admit -> (reserve -> commit)* -> release -> close
                       ^________________________________|   preempted requests come back

    open | fork -> reserve -> close                         a row, without a request

Every verb that may run out checks first and acts afterwards: it succeeds whole, or returns None and has done nothing.
"""

from __future__ import annotations

from collections import Counter

from quire.config import PrefixCache
from quire.errors import defect
from quire.kv.copies import BlockCopy, Copies
from quire.kv.explain import CacheExplanation, Facts, Unexplained
from quire.kv.hashing import CacheDomain
from quire.kv.layout import KVLayout
from quire.kv.ledger import KVUsage, Ledger
from quire.kv.matching import Matcher
from quire.kv.own_tiles import OwnTiles, content_of
from quire.kv.pending import PendingBlocks
from quire.kv.pool import BlockPool
from quire.kv.table import BlockTable, PrefixMatch, block_tokens
from quire.request import Request
from quire.units import cdiv


class KVCacheManager:
    """All open block tables over one pool. `fingerprint` names weights, formats and numerics (see CacheDomain)."""

    def __init__(
        self, pool: BlockPool, *, fingerprint: bytes, prefix_cache: PrefixCache = PrefixCache.ON, num_own_tiles: int = 0
    ) -> None:
        self.pool = pool
        self.prefix_cache = prefix_cache
        self.ledger = Ledger()
        self.fingerprint = fingerprint
        self._tables: dict[str, BlockTable] = {}
        self._pending = PendingBlocks(pool.block_size)
        self.own_tiles = OwnTiles(num_own_tiles)
        self._matcher = Matcher(pool, self._pending, self.own_tiles)
        self.copies = Copies(pool, self.own_tiles)

    def begin_step(self, step: int) -> None:
        """Stamps the events that follow with a step number."""
        self.pool.events.step = step

    def take_copies(self) -> tuple[BlockCopy, ...]:
        """Returns the copies of the step that is planned: what runs it makes them in this order, before anything is written."""
        return self.copies.take()

    def end_step(self) -> None:
        """Lets go of the blocks that the step has copied from."""
        self.copies.let_go()

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
        """Finds the longest cached prefix. It never covers a token whose logits are still wanted. Nothing changes in the pool."""
        if self.prefix_cache is PrefixCache.OFF:
            return PrefixMatch()
        return self._matcher.match(request, self._tables[request.request_id])

    # -- holding -------------------------------------------------------------------

    def admit(self, request: Request, match: PrefixMatch, num_tokens: int, num_kept: int = 0) -> tuple[int, ...] | None:
        """Gives a request its matched blocks and others for tokens [0, num_tokens); None when it does not fit now.

        A request is let in only when blocks for *all* its tokens are free beside the `num_kept` that prompts on their way will
        need, so that none is preempted there.
        """
        size, request_id = self.pool.block_size, request.request_id
        table = self._tables[request_id]
        num_own = cdiv(request.num_tokens, size) - match.num_blocks
        num_spare = self.pool.num_free - num_kept - num_own
        if num_spare < 0 or num_spare < self._matcher.num_revived(table, match.num_blocks) + self.copies.num_needed(match):
            return None
        if table.blocks:
            raise defect(f"request {request_id} is admitted but holds blocks already")
        self._note_admission(request, match, table)
        by_key = self.pool.by_key
        shared = [by_key[key] for key in table.keys[: match.num_blocks]]
        for block in shared:
            self.pool.share(block, request_id)
        own = self.copies.begin(match, cdiv(num_tokens, size) - match.num_blocks, table)
        table.begin(request, [*shared, *own], match.num_blocks, size)
        request.own_tile = table.own_tile or 0
        if self.prefix_cache is PrefixCache.ON:
            self._pending.add(table)
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
            if self.own_tiles.count and table.own_tile is None and table.request is not None:  # without a cache
                table.request.own_tile = table.own_tile = self.own_tiles.take(table)
        return table.block_ids

    def commit(self, request: Request, num_written: int) -> None:
        """Makes findable what tokens [0, num_written), all written now, have filled since the last commit.

        Where they are all that the request had when it was admitted, its last block too, though it is not full.
        """
        size, request_id = self.pool.block_size, request.request_id
        table = self._tables[request_id]
        num_full = num_written // size
        if num_written > table.capacity:
            raise defect(f"request {request_id} commits {num_written} tokens but holds room for {table.capacity}")
        table.is_written = True
        if self.prefix_cache is PrefixCache.ON:
            table.hash_blocks(request, num_full, size)
            for block_idx in range(table.num_committed, num_full):
                key, token_ids = table.keys[block_idx], block_tokens(request, block_idx, size)
                self.pool.commit(table.blocks[block_idx], table.parent(block_idx), key, token_ids, request_id)
            self._pending.drop(table, num_full if num_written < table.num_target else None)
            if num_written == table.num_target:
                self._offer(table, num_written)
        table.num_committed = max(table.num_committed, num_full)

    def trim(self, request_id: str, num_blocks: int) -> None:
        """Gives back the blocks from index `num_blocks` on, which must not have been written; undoes `reserve`."""
        table = self._tables[request_id]
        if num_blocks < table.num_committed:
            raise defect(f"request {request_id} gives back blocks that were committed")
        self._release_from(table, num_blocks, request_id)

    def release(self, request_id: str) -> None:
        """Gives back all blocks, tails first; what was written stays findable. The keys stay, so nothing is hashed again."""
        table = self._tables[request_id]
        self._pending.drop(table)
        self.copies.drop(request_id)
        if table.is_written and table.request is not None and self.prefix_cache is PrefixCache.ON:
            self._offer(table, table.request.num_computed_tokens)
        if table.own_tile is not None:
            self.own_tiles.give_back(table.own_tile, content_of(table, self.pool.block_size, self.own_tiles.size))
            table.own_tile = None
        table.num_committed, table.is_written = 0, False
        self._release_from(table, 0, request_id)

    # -- integrity -----------------------------------------------------------------

    def check(self) -> None:
        """Raises IntegrityError unless tables, reference counts and pending keys agree."""
        self.pool.check()
        holders = Counter(block.id for table in self._tables.values() for block in table.blocks)
        holders.update(self.copies.pinned_block_ids)
        for block in self.pool.blocks:
            if block.ref_count != holders[block.id]:
                raise defect(f"block {block.id} has ref_count {block.ref_count} but is in {holders[block.id]} tables")
        for table in self._tables.values():
            table.check()
        self.own_tiles.check()
        self._pending.check()

    def check_idle(self, blocks: range) -> None:
        """Raises IntegrityError unless no request holds anything; of the pool it looks at its counts and the given blocks."""
        if self._tables or self._pending or self.copies:
            facts = f"{len(self._tables)} tables, {len(self._pending)} pending ones and {len(self.copies)} copies"
            raise defect(f"{facts} are left over")
        self.pool.check_idle(blocks)

    # -- inside --------------------------------------------------------------------

    def _start(self, request_id: str, root: bytes) -> BlockTable:
        if request_id in self._tables:
            raise defect(f"request {request_id} has a table already")
        table = self._tables[request_id] = BlockTable(request_id, root)
        return table

    def _note_admission(self, request: Request, match: PrefixMatch, table: BlockTable) -> None:
        """Writes down what the cache does for a request, in the one place where it is done."""
        ledger, pool, num_whole = self.ledger, self.pool, match.num_blocks * self.pool.block_size
        num_copied, limit = self.copies.num_copied(match), request.first_logits_at
        facts = Facts(request, table.root, table.parent(match.num_blocks), num_whole, match.num_tokens, num_copied, limit)
        ledger.admit(facts, pool if self.prefix_cache is PrefixCache.ON else None, pool.events.step)
        request.num_cached_tokens = ledger.num_cached_tokens(request.request_id)

    def _offer(self, table: BlockTable, num_written: int) -> None:
        """Makes the tokens in a block that is not full findable."""
        block_idx, num_tokens = divmod(num_written, self.pool.block_size)
        if num_tokens and table.request is not None:
            token_ids = block_tokens(table.request, block_idx, self.pool.block_size, num_written)
            self.pool.offer(table.blocks[block_idx], table.parent(block_idx), token_ids, table.request_id)

    def _release_from(self, table: BlockTable, num_kept: int, request_id: str) -> None:
        for block in reversed(table.blocks[num_kept:]):
            self.pool.release(block, request_id)
        table.set_blocks(table.blocks[:num_kept], self.pool.block_size)
