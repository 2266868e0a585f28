"""The core's decoder against wrong callers: what cannot be served is refused by an exception, and nothing else happens."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.configs import spec_of
from support.core_world import (
    BLOCK_SIZE,
    BYTES_PER_BLOCK,
    NUM_BLOCKS,
    NUM_ROWS,
    REFUSALS,
    SPEC,
    decoder_of,
    empty_decoder,
    floats,
    ints,
    misaligned,
    set_weight,
    step_of,
)
from support.weights import random_weights

core: Any = pytest.importorskip("quire.native._core", reason="the native core is not compiled here")


def changed(name: str, index: int | tuple[int, ...], value: int) -> dict[str, Any]:
    array = step_of()[name]
    array[index] = value
    return {name: array}


@pytest.fixture(scope="module")
def decoder() -> Any:
    return decoder_of()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "olmo2", "gemma3_text"])
def test_a_step_without_one_of_the_weights_names_it(family: str) -> None:
    spec = replace(spec_of(family), is_head_tied=False)
    for name in spec.tensor_shapes():
        with pytest.raises(ValueError, match=name.removesuffix(".weight")):
            decoder_of(spec, without=name).run(**step_of(logits=floats(2, spec.vocab_size)))


def test_a_decoder_without_keys_and_values_runs_nothing() -> None:
    with pytest.raises(ValueError, match="outside the KV memory"):
        empty_decoder().run(**step_of())


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "olmo2", "gemma3_text"])
def test_every_tensor_of_another_size_is_refused(family: str) -> None:
    spec = spec_of(family)
    decoder = empty_decoder(spec)
    for name, shape in spec.tensor_shapes().items():
        for wrong in ((shape[0] + 1, *shape[1:]), (*shape[:-1], shape[-1] - 1)):
            with pytest.raises(ValueError, match=r"has the wrong (shape|size)"):
                set_weight(decoder, name, floats(*wrong))


WRONG_NAMES = [
    *["", "attn.q", "head", "position", "layers", "layers.", "layers.0", "layers.0.", "layers.0.attn", "layers.0.embed"],
    *["layers.-1.attn.q", "layers.9.attn.q", "layers.00.attn.q", "layers. 0.attn.q", "layers.0x.attn.q", "layers.1e0.attn.q"],
    *["layers.99999999999999999999999.attn.q", "layers.18446744073709551616.attn.q", "embed\0", "embed.weight", "final_norm"],
]


@pytest.mark.parametrize("name", [*WRONG_NAMES[:-2], *(f"{name}.weight" for name in WRONG_NAMES), "embed", "layers.0.attn.q"])
def test_matrices_that_the_model_has_not_are_refused(name: str) -> None:
    spec = replace(SPEC, is_head_tied=True)
    with pytest.raises(ValueError, match="no matrix"):
        empty_decoder(spec).set_matrix(name, floats(spec.num_heads * spec.head_dim, spec.hidden_size))


@pytest.mark.parametrize(
    "name", [*(f"{name}.bias" for name in WRONG_NAMES), "layers.0.attn.q", "layers.0.attn.q.bias", "embed.bias"]
)
def test_vectors_that_the_model_has_not_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no vector"):
        empty_decoder().set_vector(name, floats(SPEC.hidden_size))


@pytest.mark.parametrize(
    ("num_blocks", "block_size", "error"),
    [
        (2**51, 32, OverflowError),
        (2**62, 32, OverflowError),
        (2**63 - 1, 2**62, OverflowError),
        (1, 2**62, OverflowError),
        (2**26 + 1, 32, ValueError),
        (0, 32, ValueError),
        (-1, 32, ValueError),
        (-(2**63), 32, ValueError),
        (8, 0, ValueError),
        (8, -32, ValueError),
        (8, 33, ValueError),
        (2**63, 32, TypeError),
        (8.0, 32, TypeError),
    ],
)
def test_impossible_key_value_memory_is_refused(num_blocks: Any, block_size: int, error: type[Exception], decoder: Any) -> None:
    kv_bytes = decoder.kv_bytes
    with pytest.raises(error):
        decoder.allocate_kv(num_blocks, block_size, core.KVFormat.F32, BYTES_PER_BLOCK)
    assert decoder.kv_bytes == kv_bytes
    decoder.run(**step_of())


@pytest.mark.parametrize("wrong", [0, -1, BYTES_PER_BLOCK - 1, 2 * BYTES_PER_BLOCK, 2**63 - 1])
def test_blocks_of_another_size_than_was_planned_are_refused(wrong: int, decoder: Any) -> None:
    kv_bytes = decoder.kv_bytes
    with pytest.raises(ValueError, match="planned"):
        decoder.allocate_kv(NUM_BLOCKS, BLOCK_SIZE, core.KVFormat.F32, wrong)
    assert decoder.kv_bytes == kv_bytes
    decoder.run(**step_of())


@pytest.mark.parametrize("num_bytes", [0, BYTES_PER_BLOCK - 1, BYTES_PER_BLOCK + 1])
def test_pages_of_another_size_are_refused(num_bytes: int, decoder: Any) -> None:
    before = decoder.export_block(1)
    with pytest.raises(ValueError, match="pages"):
        decoder.import_block(1, bytes(num_bytes))
    assert decoder.export_block(1) == before
    for block in (-1, NUM_BLOCKS, 2**62):
        with pytest.raises(ValueError, match="block id"):
            decoder.export_block(block)
        with pytest.raises(ValueError, match="block id"):
            decoder.import_block(block, before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the memory that Linux tells of")
def test_memory_that_the_machine_has_not_is_refused_at_once(decoder: Any) -> None:
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "1":
        pytest.skip("this machine hands out memory that it has not")
    bytes_per_block = decoder.kv_bytes // NUM_BLOCKS
    machine = 1024 * sum(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith(("MemTotal:", "SwapTotal:"))
    )
    if (num_blocks := 2 * machine // bytes_per_block) * BLOCK_SIZE > 2**31:
        pytest.skip("the slots of so much memory have no numbers")
    with pytest.raises(MemoryError):
        decoder.allocate_kv(num_blocks, BLOCK_SIZE, core.KVFormat.F32, BYTES_PER_BLOCK)
    decoder.run(**step_of())


@pytest.mark.parametrize(
    "changes",
    [
        changed("token_ids", 3, SPEC.vocab_size),
        changed("token_ids", 3, -1),
        changed("positions", 3, -1),
        changed("positions", 3, 4),
        changed("positions", 39, 44),
        changed("positions", 39, 2**31 - 1),
        changed("slots", 3, NUM_BLOCKS * BLOCK_SIZE),
        changed("slots", 3, -1),
        changed("slots", 3, 0),
        changed("slots", 39, 5 * BLOCK_SIZE),
        changed("block_tables", (0, 0), NUM_BLOCKS),
        changed("block_tables", (1, 1), -1),
        changed("block_tables", (1, 1), 2**31 - 1),
        changed("query_start", 0, 1),
        changed("query_start", 1, 0),
        changed("query_start", 1, 40),
        changed("query_start", 1, 41),
        changed("query_start", 1, -5),
        changed("query_start", 2, 39),
        changed("query_start", 2, 2**31 - 1),
        changed("context_lens", 0, 0),
        changed("context_lens", 0, -(2**31)),
        changed("context_lens", 1, 42),
        changed("context_lens", 1, 2**31 - 1),
        changed("sample_rows", 0, NUM_ROWS),
        changed("sample_rows", 0, -1),
        {"block_tables": np.array([[5], [2]], np.int32)},
        {"block_tables": np.zeros((2, 0), np.int32)},
        {"block_tables": np.array([[5, 0]], np.int32)},
        {"positions": ints(0)},
        {"slots": ints()},
        {"query_start": ints(0, NUM_ROWS)},
        {"logits": floats(1, SPEC.vocab_size)},
        {"logits": floats(2, SPEC.vocab_size + 1)},
        {"token_ids": ints(), "positions": ints(), "slots": ints(), "sample_rows": ints(), "logits": floats(0, SPEC.vocab_size)},
    ],
    ids="-".join,
)
def test_steps_that_are_out_of_range_or_contradict_themselves_are_refused(changes: dict[str, Any], decoder: Any) -> None:
    with pytest.raises(ValueError, match=r"step|outside|agree|short|rows|begin|end|block table"):
        decoder.run(**step_of(**changes))


def test_two_requests_may_read_one_block_but_not_write_it(decoder: Any) -> None:
    shared = step_of(block_tables=np.array([[5, 0], [5, 7]], np.int32))
    shared["slots"][30:] = 6 * BLOCK_SIZE + shared["positions"][30:]
    decoder.run(**shared)
    writes = {"positions": ints(0, 0), "query_start": ints(0, 1, 2), "context_lens": ints(1, 1), "slots": ints(32, 32)}
    with pytest.raises(ValueError, match="written twice"):
        decoder.run(
            **step_of(token_ids=ints(1, 2), sample_rows=ints(0, 1), block_tables=np.array([[1], [1]], np.int32), **writes)
        )


ARRAYS = ["token_ids", "positions", "query_start", "context_lens", "block_tables", "slots", "sample_rows", "logits"]


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_another_type_layout_or_place_are_refused(name: str, decoder: Any) -> None:
    good = step_of()[name]
    spread = np.zeros((*good.shape[:-1], 2 * good.shape[-1]), good.dtype)[..., ::2]
    for bad in (
        good.astype(np.float64),
        good.astype(np.int64),
        good.astype(good.dtype.newbyteorder()),
        good[None],
        spread,
        None,
        5,
        "x",
    ):
        with pytest.raises(REFUSALS):
            decoder.run(**step_of(**{name: bad}))
    with pytest.raises(ValueError, match=f"{name} is misaligned"):
        decoder.run(**step_of(**{name: misaligned(good)}))


def test_outputs_that_must_not_be_written_are_refused(decoder: Any) -> None:
    logits = floats(2, SPEC.vocab_size)
    logits.flags.writeable = False
    with pytest.raises(REFUSALS):
        decoder.run(**step_of(logits=logits))


def test_weights_in_any_strides_are_taken_and_misaligned_ones_refused(decoder: Any) -> None:
    weight = np.random.default_rng(0).normal(size=(SPEC.vocab_size, SPEC.hidden_size)).astype(np.float32)
    sums = []
    for view in (weight, np.asfortranarray(weight), weight[::-1].copy()[::-1], np.repeat(weight, 3, axis=1)[:, ::3]):
        decoder.set_matrix("embed.weight", view)
        sums.append(decoder.packed_checksums(0))
    assert all(each == sums[0] for each in sums)
    with pytest.raises(ValueError, match="misaligned"):
        decoder.set_matrix("embed.weight", misaligned(weight))
    with pytest.raises(ValueError, match="misaligned"):
        decoder.set_vector("final_norm.weight", misaligned(floats(SPEC.hidden_size)))
    packed = np.zeros(weight.shape, [("pad", "u1"), ("value", "f4")])["value"]
    with pytest.raises(REFUSALS):
        decoder.set_matrix("embed.weight", packed)


def test_rows_slots_blocks_and_matrices_that_are_not_there_are_refused(decoder: Any) -> None:
    decoder.run(**step_of())
    heads = (1, SPEC.num_kv_heads, SPEC.head_dim)
    calls: list[Callable[[], object]] = [
        lambda: decoder.head(ints(NUM_ROWS), floats(1, SPEC.vocab_size)),
        lambda: decoder.head(ints(-1), floats(1, SPEC.vocab_size)),
        lambda: decoder.head(ints(0), floats(2, SPEC.vocab_size)),
        lambda: decoder.head(ints(0), floats(1, SPEC.vocab_size - 1)),
        lambda: decoder.argmax(ints(NUM_ROWS), ints(0), ints(0)),
        lambda: decoder.argmax(ints(0), ints(), ints(0)),
        lambda: decoder.argmax(ints(0), ints(0), ints(0, 0)),
        lambda: decoder.read_kv(-1, ints(0), floats(*heads), floats(*heads)),
        lambda: decoder.read_kv(SPEC.num_layers, ints(0), floats(*heads), floats(*heads)),
        lambda: decoder.read_kv(0, ints(NUM_BLOCKS * BLOCK_SIZE), floats(*heads), floats(*heads)),
        lambda: decoder.read_kv(0, ints(-1), floats(*heads), floats(*heads)),
        lambda: decoder.read_kv(0, ints(0), floats(0, *heads[1:]), floats(*heads)),
        lambda: decoder.read_kv(0, ints(0), floats(*heads), floats(1, heads[2], heads[1])),
        lambda: decoder.copy_block(0, NUM_BLOCKS),
        lambda: decoder.copy_block(-1, 0),
        lambda: decoder.copy_block(2**63 - 1, 0),
        lambda: decoder.packed_checksums(len(decoder.packed_sizes())),
        lambda: decoder.packed_bytes(2**63),
        lambda: decoder.read_packed(0, 0, 0, []),
        lambda: decoder.read_packed(0, 0, 2**63 - 1, decoder.packed_checksums(0)),
        lambda: decoder.read_packed(0, 0, -1, decoder.packed_checksums(0)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"row|\[|layer|slot|block|matrix|checksum|offset"):
            call()
    for wrong in (-1, 2**64, None, "0"):
        with pytest.raises(TypeError):
            decoder.packed_checksums(wrong)
    decoder.copy_block(3, 3)


def test_a_matrix_read_in_part_counts_as_never_set(tmp_path: Path) -> None:
    decoder = decoder_of()
    (tmp_path / "short").write_bytes(b"\1" * 100)
    with (tmp_path / "short").open("rb") as file:
        assert not decoder.read_packed(1, file.fileno(), 0, decoder.packed_checksums(1))
    assert not decoder.read_packed(1, -1, 0, decoder.packed_checksums(1))
    with pytest.raises(ValueError, match="never set"):
        decoder.run(**step_of())


def test_no_verb_interrupts_a_step_of_another_thread() -> None:
    """Each returns what it returns alone or says that the core is busy, and the step finds its own bits."""
    decoder = decoder_of()
    expected = step_of()
    decoder.run(**expected)
    stops = threading.Event()
    sampler = core.BatchSampler(decoder)

    def interrupt() -> None:
        heads = (1, SPEC.num_kv_heads, SPEC.head_dim)
        norm = random_weights(SPEC)["final_norm.weight"].to_float32()
        verbs: list[Callable[[], object]] = [
            lambda: decoder.allocate_kv(NUM_BLOCKS, BLOCK_SIZE, core.KVFormat.F32, BYTES_PER_BLOCK),
            lambda: decoder.copy_block(0, 1),
            lambda: decoder.read_kv(0, ints(0), floats(*heads), floats(*heads)),
            lambda: decoder.set_vector("final_norm.weight", norm),
            lambda: decoder.packed_checksums(0),
            lambda: decoder.export_block(0),
            lambda: sampler.score(floats(1, 5), [0], 1),
        ]
        while not stops.is_set():
            for verb in verbs:
                with suppress(core.BusyError):
                    verb()

    thread = threading.Thread(target=interrupt)
    thread.start()
    answers = []
    while len(answers) < 30:
        found = step_of(query_start=ints(0, 30), context_lens=ints(30), block_tables=np.array([[5]], np.int32))
        for name in ("token_ids", "positions", "slots"):
            found[name] = found[name][:30]
        found |= {"sample_rows": ints(29), "logits": floats(1, SPEC.vocab_size)}
        try:
            decoder.run(**found)
        except core.BusyError:
            continue
        answers.append(found["logits"][0].tobytes())
    stops.set()
    thread.join()
    assert set(answers) == {expected["logits"][0].tobytes()}
