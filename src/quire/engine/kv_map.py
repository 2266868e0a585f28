"""What lies in the pool, block by block, as the engine thread sees it between two steps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from quire.engine.core import EngineCore
from quire.kv.ledger import KVUsage
from quire.units import cdiv


class BlockState(StrEnum):
    """Whether requests hold a block; if none does, whether its content can still be found."""

    USED = "used"
    CACHED = "cached"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedBlock:
    """A block, the tokens that have K/V in it, and how many requests hold it."""

    block_id: int
    state: BlockState
    num_tokens: int
    num_holders: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KVMap:
    """Where the pool's blocks are, how many tokens lie in those that requests hold and in the cached ones, and some blocks."""

    usage: KVUsage
    block_size: int
    num_used_tokens: int
    num_cached_tokens: int
    blocks: tuple[MappedBlock, ...]

    @property
    def num_blocks(self) -> int:
        usage = self.usage
        return usage.num_used_blocks + usage.num_cached_blocks + usage.num_empty_blocks


def kv_map(core: EngineCore, shown: range) -> KVMap:
    """Returns the map of a pool with the blocks of these ids, as far as they exist. Only for the thread that steps."""
    manager = core.scheduler.manager
    size = manager.pool.block_size
    num_tokens = _tokens_of_used(core, size)
    blocks = manager.pool.blocks[shown.start : shown.stop]
    return KVMap(
        usage=manager.usage(core.executor.layout),
        block_size=size,
        num_used_tokens=sum(num_tokens.values()),
        num_cached_tokens=manager.pool.num_cached_tokens,
        blocks=tuple(
            MappedBlock(
                block_id=block.id,
                state=_state(is_used=block.ref_count > 0, is_findable=block.is_findable),
                num_tokens=num_tokens.get(block.id, 0) if block.ref_count else len(block.token_ids),
                num_holders=block.ref_count,
            )
            for block in blocks
        ),
    )


def _tokens_of_used(core: EngineCore, size: int) -> dict[int, int]:
    """Returns the tokens in every block that a request holds; a block that is shared counts once."""
    block_ids_of = core.scheduler.manager.block_ids
    num_tokens: dict[int, int] = {}
    for request in core.requests:
        block_ids, num_computed = block_ids_of(request.request_id), request.num_computed_tokens
        num_full = num_computed // size
        num_tokens.update(dict.fromkeys(block_ids[:num_full], size))
        if num_full < cdiv(num_computed, size):
            num_tokens[block_ids[num_full]] = num_computed - num_full * size
    return num_tokens


def _state(*, is_used: bool, is_findable: bool) -> BlockState:
    if is_used:
        return BlockState.USED
    return BlockState.CACHED if is_findable else BlockState.EMPTY
