"""What the native executor does with weights, memory, threads and callers that are not as they should be."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.config import DType, KVFormat, Quantize, WeightFormat
from quire.engine.loading import load_executor
from quire.engine.options import engine_config
from quire.errors import ExecutorError, ExecutorUnavailableError
from quire.executors.native import NativeExecutor, available_isas, int_layout
from quire.executors.options import ExecutorOptions
from quire.executors.packing import chosen_formats, matrix_shapes, mean_bits
from quire.executors.protocol import StepBatch, kv_layout
from quire.models.spec import ModelSpec
from quire.models.weights import SourceTensor, Weights
from support.configs import spec_of, with_ffn
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return spec_of("llama")


def build(spec: ModelSpec, weights: Weights, **changes: Any) -> NativeExecutor:
    layout = kv_layout(spec, 32, KVFormat.FLOAT32)
    on_progress = changes.pop("on_progress", None)
    options = ExecutorOptions(**{"layout": layout, "num_blocks": 64, "dtype": DType.FLOAT32} | changes)
    return NativeExecutor(spec, weights, options, on_progress)


def batch_of(num_rows: int, start: int = 0) -> StepBatch:
    rows = np.arange(start, start + num_rows, dtype=np.int32)
    return StepBatch(
        token_ids=rows % 7,
        positions=rows,
        query_start=np.array([0, num_rows], np.int32),
        context_lens=np.array([start + num_rows], np.int32),
        block_tables=np.arange(-(-(start + num_rows) // 32), dtype=np.int32)[None],
        slot_mapping=rows,
        sample_rows=rows - start,
    )


def without(weights: Weights, name: str) -> Weights:
    return Weights({key: tensor for key, tensor in weights.items() if key != name}, weights.fingerprint)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.INT8, Quantize.INT4], ids=lambda each: each.value)
def test_gated_layers_of_several_groups_compute_a_row_the_same_in_any_chunk(
    quantize: Quantize, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than meet a group before the next, and columns and elements that end within a panel and a group."""
    monkeypatch.setenv("QUIRE_ISA", isa)
    wide = replace(with_ffn(spec_of("llama"), size=600), hidden_size=320)
    weights = random_weights(wide)
    together = build(wide, weights, quantize=quantize, dtype=DType.BFLOAT16, threads=2).run(batch_of(150))
    for size in (1, 8, 9, 16, 17, 33, 131):
        alone = build(wide, weights, quantize=quantize, dtype=DType.BFLOAT16)
        chunks = [alone.run(batch_of(min(size, 150 - start), start)) for start in range(0, 150, size)]
        assert np.concatenate(chunks).tobytes() == together.tobytes()


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("quantize", [Quantize.INT8, Quantize.INT4], ids=lambda each: each.value)
def test_bits_of_a_weight_are_those_in_memory(quantize: Quantize, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_ISA", isa)
    sizes = {"hidden_size": 512, "num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "vocab_size": 512}
    whole = replace(with_ffn(spec_of("llama"), size=1024), **sizes)
    formats = chosen_formats(whole, WeightFormat(quantize.value), int_layout())
    sizes_of = {name: rows * columns for name, (rows, columns) in matrix_shapes(whole).items()}
    num_bits = sum(formats[name].bits_per_weight * size for name, size in sizes_of.items())
    assert mean_bits(whole, formats) == pytest.approx(num_bits / sum(sizes_of.values()))
    assert build(whole, random_weights(whole), quantize=quantize).weight_bytes == num_bits / 8


@pytest.mark.parametrize("isa", available_isas())
def test_the_reference_quantizes_in_the_layout_of_the_instruction_set(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_ISA", isa)
    _, reference, _ = load_executor(None, engine_config({"executor": "reference", "quantize": "int8"}))
    assert f"weights=int8 for {int_layout().value} " in reference.numerics


def test_the_reference_asks_for_no_instruction_set_where_nothing_is_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_ISA", "mmx")
    _, reference, _ = load_executor(None, engine_config({"executor": "reference"}))
    assert reference.name.startswith("reference")


@pytest.mark.parametrize("name", ["final_norm.weight", "layers.1.attn.k.weight", "layers.0.ffn_norm.weight", "embed.weight"])
def test_a_missing_tensor_is_named(spec: ModelSpec, name: str) -> None:
    with pytest.raises(ExecutorError, match=name):
        build(spec, without(random_weights(spec), name))


def test_a_tensor_of_the_wrong_size_is_named(spec: ModelSpec) -> None:
    weights = random_weights(spec)
    short = SourceTensor(dtype=weights["final_norm.weight"].dtype, bits=weights["final_norm.weight"].bits[:3])
    with pytest.raises(ExecutorError, match=r"final_norm\.weight"):
        build(spec, Weights({**dict(weights), "final_norm.weight": short}, b""))


def test_a_shape_that_contradicts_itself_is_refused(spec: ModelSpec) -> None:
    odd = replace(spec, num_kv_heads=spec.num_heads - 1) if spec.num_heads > 2 else replace(spec, num_kv_heads=3)
    with pytest.raises(ExecutorError, match="do not divide"):
        build(odd, random_weights(odd))


def test_an_unknown_instruction_set_is_refused_with_the_choices(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_ISA", "mmx")
    with pytest.raises(ExecutorUnavailableError, match="generic"):
        build(spec, random_weights(spec))


@pytest.mark.parametrize(
    "changes",
    [
        {"token_ids": np.array([10**6], np.int32)},
        {"token_ids": np.array([-1], np.int32)},
        {"token_ids": np.array([1], np.int64)},
        {"positions": np.array([10**6], np.int32)},
        {"slot_mapping": np.array([64 * 32], np.int32)},
        {"block_tables": np.array([[64]], np.int32)},
        {"context_lens": np.array([5], np.int32)},
        {"sample_rows": np.array([1], np.int32)},
        {"query_start": np.array([0, 2], np.int32)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_batch_out_of_range_is_refused(spec: ModelSpec, changes: dict[str, Any]) -> None:
    executor = build(spec, random_weights(spec))
    with pytest.raises(ExecutorError):
        executor.run(replace(batch_of(1), **changes))
    assert np.isfinite(executor.run(batch_of(1))).all()


def test_heads_in_slices_are_the_bits_of_one_head(spec: ModelSpec) -> None:
    executor = build(spec, random_weights(spec), threads=2)
    batch = batch_of(50)
    whole = executor.run(batch)
    none = executor.run(replace(batch, sample_rows=batch.sample_rows[:0]))
    slices = [executor.head(batch.sample_rows[start : start + 7]) for start in range(0, 50, 7)]
    assert none.shape == (0, spec.vocab_size)
    assert np.concatenate(slices).tobytes() == whole.tobytes()
    assert executor.head(np.array([49, 3, 3], np.int32)).tobytes() == whole[[49, 3, 3]].tobytes()


def test_a_head_of_rows_that_the_latest_step_had_not_is_refused(spec: ModelSpec) -> None:
    executor = build(spec, random_weights(spec))
    row = np.array([0], np.int32)
    with pytest.raises(ExecutorError, match="latest step"):
        executor.head(row)
    executor.run(batch_of(2))
    for outside in (row + 2, row - 1):
        with pytest.raises(ExecutorError, match="latest step"):
            executor.head(outside)
    executor.run(batch_of(1))
    with pytest.raises(ExecutorError, match="latest step"):
        executor.head(row + 1)


def test_two_callers_at_once_get_the_right_answer_or_an_error(spec: ModelSpec) -> None:
    executor = build(spec, random_weights(spec))
    batch = batch_of(300)
    expected = executor.run(batch).tobytes()
    found: list[bytes | ExecutorError] = []

    def call() -> None:
        for _ in range(10):
            try:
                found.append(executor.run(batch).tobytes())
            except ExecutorError as error:
                found.append(error)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(answer == expected for answer in found if isinstance(answer, bytes))
    assert all("another call" in str(answer) for answer in found if isinstance(answer, ExecutorError))


def test_an_error_of_the_callers_callback_stays_its_own(spec: ModelSpec, tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise ValueError(f"{done} of {total}")

    for _ in range(2):  # packing, then reading what was packed
        with pytest.raises(ValueError, match="1 of") as found:
            build(spec, random_weights(spec), on_progress=fail, packed_cache=tmp_path)
        assert not isinstance(found.value, ExecutorError)
        build(spec, random_weights(spec), packed_cache=tmp_path)


LINUX_ONLY = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and RLIMIT_AS")


def limited(code: str) -> str:
    """Runs code in a process of its own with little address space left; returns what it prints."""
    prelude = (
        "import resource, types, sys\n"
        "from quire.errors import ExecutorError\n"
        "from support.configs import spec_of, with_ffn\n"
        "from support.weights import random_weights\n"
        "def limit(spare):\n"
        "    pages = int(open('/proc/self/statm').read().split()[0])\n"
        "    used = pages * resource.getpagesize()\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + spare, resource.RLIM_INFINITY))\n"
    )
    script = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r}); sys.path.insert(0, {str(Path(__file__).parent)!r})\n{prelude}{code}"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@LINUX_ONLY
@pytest.mark.parametrize("threads", [3, 5])
def test_any_number_of_threads_does_all_of_the_work_once(spec: ModelSpec, threads: int) -> None:
    weights, batch = random_weights(spec), batch_of(300)
    alone = build(spec, weights).run(batch)
    together = build(spec, weights, threads=threads)
    for _ in range(5):  # who helps whom differs every time
        assert together.run(batch).tobytes() == alone.tobytes()


def test_threads_that_cannot_start_are_an_error_not_a_hang() -> None:
    assert "refused" in limited(
        "from test_executor import build\n"
        "spec = spec_of('llama'); weights = random_weights(spec)\n"
        "limit(200 << 20)\n"
        "try: build(spec, weights, threads=1000)\n"
        "except ExecutorError as error: print('refused', error)\n"
    )


@LINUX_ONLY
def test_a_step_without_memory_leaves_the_executor_usable() -> None:
    assert limited(
        "from test_executor import build, batch_of\n"
        "from dataclasses import replace\n"
        "spec = spec_of('llama', intermediate_size=20000, max_position_embeddings=2048)\n"
        "executor = build(spec, random_weights(spec))\n"
        "expected = executor.run(batch_of(8)).tobytes()\n"
        "limit(40 << 20)\n"
        "for rows in (1000, 900):\n"
        "    batch = batch_of(rows)\n"
        "    try: executor.run(replace(batch, sample_rows=batch.sample_rows[:1])); raise SystemExit('memory was not short')\n"
        "    except ExecutorError as error: print(error)\n"
        "print(executor.run(batch_of(8)).tobytes() == expected)\n"
    ).endswith("True\n")
