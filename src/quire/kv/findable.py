"""Which content can be found, and in which block: full blocks by their key, full and partial ones by what they continue.

A full block whose content another block has already is a copy: it cannot be found while the other one can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quire.errors import defect
from quire.kv.block import Block
from quire.kv.siblings import Siblings, Tokens


class Findable:
    """The index over a pool's blocks. It writes `hash`, `parent`, `token_ids` and `copy_of` of a block, and nothing else does."""

    __slots__ = ("_blocks", "_by_key", "_children", "_copies")

    def __init__(self) -> None:
        self._by_key: dict[bytes, Block] = {}
        self._children: dict[bytes, Siblings] = {}  # parent key -> findable blocks that continue it
        self._copies: dict[bytes, list[Block]] = {}  # key -> held blocks with the same content
        self._blocks: dict[tuple[bytes, Tokens], Block] = {}

    def __len__(self) -> int:
        """Returns how many blocks, full and partial, can be found."""
        return len(self._blocks)

    @property
    def by_key(self) -> Mapping[bytes, Block]:
        """The full blocks, to look at."""
        return self._by_key

    def most_similar(self, parent: bytes, token_ids: Sequence[int]) -> Tokens | None:
        """Returns the continuation of `parent` that begins with most of these tokens; None where nothing continues it."""
        siblings = self._children.get(parent)
        return None if siblings is None else siblings.most_similar(token_ids)

    def holding(self, parent: bytes, token_ids: Tokens) -> Block:
        """Returns the block of a continuation."""
        return self._blocks[parent, token_ids]

    def beginning_with(self, parent: bytes, token_ids: Tokens) -> Block | None:
        """Returns a block after `parent` that holds these tokens, and perhaps more."""
        siblings = self._children.get(parent)
        found = None if siblings is None else siblings.beginning_with(token_ids)
        return None if found is None else self._blocks[parent, found]

    def put(self, block: Block, parent: bytes, key: bytes | None, token_ids: Tokens) -> None:
        """Makes a block findable: a full one under its key, a partial one (None) by its tokens alone."""
        self._children.setdefault(parent, Siblings()).add(token_ids)
        self._set(block, parent, key, token_ids)

    def remove(self, block: Block) -> None:
        """Forgets what a block holds."""
        if block.parent is None:
            raise defect(f"block {block.id} is forgotten but holds nothing")
        siblings = self._children[block.parent]
        siblings.remove(block.token_ids)
        if not siblings:
            del self._children[block.parent]
        del self._blocks[block.parent, block.token_ids]
        if block.hash is not None:
            del self._by_key[block.hash]
        _empty(block)

    def replace(self, block: Block, heir: Block) -> None:
        """Lets another block with the same content be found in the place of `block`, which holds nothing from then on."""
        if block.parent is None:
            raise defect(f"block {block.id} is replaced but holds nothing")
        self._set(heir, block.parent, block.hash, block.token_ids)
        _empty(block)

    def note_copy(self, block: Block, key: bytes) -> None:
        """Remembers a held block with the content that is found under `key`."""
        block.copy_of = key
        self._copies.setdefault(key, []).append(block)

    def forget_copy(self, block: Block) -> None:
        """Forgets that a block is a copy, if it is one."""
        if block.copy_of is None:
            return
        copies = self._copies[block.copy_of]
        copies.remove(block)
        if not copies:
            del self._copies[block.copy_of]
        block.copy_of = None

    def heir_of(self, block: Block) -> Block | None:
        """Returns a held copy of a block's content, no longer one of its copies; None where there is none."""
        copies = None if block.hash is None else self._copies.get(block.hash)
        if not copies:
            return None
        heir = copies[0]
        self.forget_copy(heir)
        return heir

    def check(self, block: Block) -> None:
        """Raises IntegrityError unless the index knows a block as what it is."""
        if block.copy_of is not None:
            if block.is_findable or block not in self._copies.get(block.copy_of, ()) or block.copy_of not in self._by_key:
                raise defect(f"block {block.id} is a copy of nothing, or can be found itself")
            if not block.ref_count or not self._by_key[block.copy_of].ref_count:
                raise defect(f"block {block.id} or what it is a copy of is free")
        if block.parent is None:
            if block.hash is not None or block.token_ids:
                raise defect(f"block {block.id} has a key or tokens but continues nothing")
            return
        if block.hash is not None and self._by_key.get(block.hash) is not block:
            raise defect(f"block {block.id} has a key but is not full or not the one that is found")
        is_child = block.token_ids in self._children.get(block.parent, ())
        if not is_child or self._blocks.get((block.parent, block.token_ids)) is not block:
            raise defect(f"block {block.id} is unknown to its parent")

    def check_counts(self, num_full: int, num_findable: int) -> None:
        """Raises IntegrityError unless so many full blocks, and blocks in all, can be found."""
        num_children = sum(len(siblings) for siblings in self._children.values())
        if num_full != len(self._by_key) or not num_findable == num_children == len(self._blocks):
            facts = f"{len(self._by_key)} can be found, {num_children} have a parent"
            raise defect(f"{num_full} blocks are committed, {num_findable} of {len(self._blocks)} are findable, {facts}")

    def _set(self, block: Block, parent: bytes, key: bytes | None, token_ids: Tokens) -> None:
        self._blocks[parent, token_ids] = block
        block.hash, block.parent, block.token_ids = key, parent, token_ids
        if key is not None:
            self._by_key[key] = block


def _empty(block: Block) -> None:
    block.hash = block.parent = None
    block.token_ids = ()
