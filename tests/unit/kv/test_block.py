from __future__ import annotations

import pytest

from quire.errors import IntegrityError
from quire.kv.block import Block, FreeQueue


def queue_of(count: int) -> tuple[FreeQueue, list[Block]]:
    blocks = [Block(block_id) for block_id in range(count)]
    return FreeQueue(blocks), blocks


def ids(queue: FreeQueue) -> list[int]:
    return [block.id for block in queue]


def test_blocks_leave_in_the_order_they_came() -> None:
    queue, blocks = queue_of(3)
    assert [queue.take_first() for _ in range(4)] == [*blocks, None]
    assert len(queue) == 0


def test_a_block_leaves_the_middle_and_the_rest_keeps_its_order() -> None:
    queue, blocks = queue_of(5)
    for block_id in (2, 0, 4):
        queue.remove(blocks[block_id])
    assert ids(queue) == [1, 3]
    queue.check()


def test_empty_blocks_leave_before_partial_ones_and_these_before_full_ones() -> None:
    queue, blocks = queue_of(6)
    for block in blocks:
        queue.remove(block)
    for block in blocks[:4]:
        block.parent = b"root"
    for block in blocks[:2]:
        block.hash = b"key"
    for block_id in (1, 3, 5, 0, 2, 4):
        queue.put(blocks[block_id])
    assert ids(queue) == [4, 5, 3, 2, 1, 0]
    assert all(queue.is_in_order(block) for block in blocks)
    queue.check()
    assert [block.id for block in iter(queue.take_first, None)] == [4, 5, 3, 2, 1, 0]


def test_a_block_in_the_wrong_section_is_not_in_order() -> None:
    queue, blocks = queue_of(3)
    assert all(queue.is_in_order(block) for block in blocks)
    blocks[0].parent = b"root"
    assert not queue.is_in_order(blocks[1])
    blocks[0].hash = b"key"
    assert not queue.is_in_order(blocks[0])


def test_queueing_a_block_twice_is_reported() -> None:
    queue, blocks = queue_of(2)
    with pytest.raises(IntegrityError, match="put into the free queue twice"):
        queue.put(blocks[0])


def test_removing_a_block_that_is_not_queued_is_reported() -> None:
    queue, blocks = queue_of(2)
    queue.remove(blocks[0])
    with pytest.raises(IntegrityError, match="not in it"):
        queue.remove(blocks[0])


def test_check_sees_a_broken_link() -> None:
    queue, blocks = queue_of(3)
    blocks[1].prev_free = blocks[2]
    with pytest.raises(IntegrityError, match="disagree"):
        queue.check()


def test_check_sees_a_lost_block() -> None:
    queue, blocks = queue_of(3)
    blocks[0].next_free, blocks[2].prev_free = blocks[2], blocks[0]
    with pytest.raises(IntegrityError, match="links 2 blocks and counts 3"):
        queue.check()
