"""Every benchmark runs on a tiny random model and reports what it says it measures. No time is asserted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from quire.bench.harness import Harness, Room, prompt_tokens, timed_run
from quire.bench.kernels import KernelWork, measure_kernels
from quire.bench.machine_peak import MachinePeak
from quire.bench.prefix_sharing import SharedWork, measure_sharing
from quire.bench.random_model import random_checkpoint
from quire.bench.report import Report
from quire.bench.saved_model import save_random_model
from quire.bench.startup import StartupWork, load_and_answer, measure_startup
from quire.bench.throughput import Workload, measure, measure_batches
from quire.config import PrefixCache
from quire.engine import driving
from quire.engine.options import EngineOptions
from quire.engine.watch import StepRecord
from quire.errors import ConfigError
from quire.executors.native import available_isas
from quire.models.checkpoint import Checkpoint, load_checkpoint
from support.configs import CONFIGS
from support.gguf_mutations import small_model
from support.gguf_writer import gguf_bytes

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
OPTIONS: EngineOptions = {"dtype": "bfloat16", "threads": 1}


@pytest.fixture(autouse=True)
def _quick_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring the peak reads half a gigabyte; one test elsewhere measures it for real."""
    monkeypatch.setattr("quire.bench.harness.measure_peak", lambda *_: MachinePeak(bandwidth=1e10, flops=1e12))


def names(report: Report) -> list[str]:
    return [speed.name for speed in report.speeds]


def test_decode_reports_prefill_and_steps(checkpoint: Checkpoint) -> None:
    told: list[tuple[str, int, int]] = []
    work = Workload(num_prompt=20, num_new=5, batch=2, repeat=2)
    report = measure(checkpoint, work, OPTIONS, "decode", lambda *what: told.append(what))
    assert names(report) == ["prefill 20", "decode at 20, batch 2"]
    assert (report.bench, report.weights, report.kv_format, report.threads) == ("decode", "bfloat16", "bfloat16", 1)
    assert report.prefetch == "both (default)"
    assert told[-1] == ("Measuring batch 2", 2, 2)
    assert report.speeds[0].share_of_bandwidth is None
    assert all(speed.roofline_seconds and speed.tokens_per_second for speed in report.speeds)


def test_a_prompt_alone_reports_no_decode(checkpoint: Checkpoint) -> None:
    assert names(measure(checkpoint, Workload(num_prompt=20, num_new=1, repeat=1), OPTIONS)) == ["prefill 20"]


def test_all_requests_of_a_batch_decode_together_however_long_their_prompts(checkpoint: Checkpoint) -> None:
    work = Workload(num_prompt=300, num_new=6, batch=4)
    harness = Harness(checkpoint, OPTIONS, work.room)
    core = harness.core()
    seen: list[StepRecord] = []
    core.watcher = seen.append
    submissions = [
        driving.greedy(str(index), prompt_tokens(100, index, work.num_prompt), work.num_new + work.lead) for index in range(4)
    ]
    assert len(timed_run(core, submissions, work.num_new - 1).steps) == 5
    drawn = Counter(request_id for record in seen for request_id in record.drawn.token_ids)
    assert all(drawn[submission.request_id] >= work.num_new for submission in submissions)


def test_batches_are_compared_with_the_first(checkpoint: Checkpoint) -> None:
    report = measure_batches(checkpoint, Workload(num_prompt=8, num_new=3, repeat=2), (1, 4), OPTIONS)
    assert names(report) == ["decode at 8, batch 1", "decode at 8, batch 4"]
    first, second = report.speeds
    assert first.ratio == 1.0
    assert second.ratio == pytest.approx(second.seconds / first.seconds)


def test_sharing_is_compared_with_recomputing(checkpoint: Checkpoint) -> None:
    work = SharedWork(num_requests=3, num_shared=64, num_own=16, num_new=4, repeat=1)
    off, shared, cold, warm = measure_sharing(checkpoint, work, OPTIONS).speeds
    assert off.name == "3 requests, prefix cache off"
    assert shared.ratio == pytest.approx(off.seconds / shared.seconds)
    assert warm.ratio == pytest.approx(cold.seconds / warm.seconds)
    assert "95 of them cached" in warm.name  # 64 + 16 + 15 tokens were written
    assert shared.roofline_seconds is not None
    assert off.roofline_seconds is not None
    assert shared.roofline_seconds < off.roofline_seconds


def test_sharing_computes_the_shared_tokens_once(checkpoint: Checkpoint) -> None:
    harness = Harness(checkpoint, OPTIONS, Room(num_requests=2, num_tokens=100))
    prompts = [[*prompt_tokens(100, 0, 64), 7 + index] for index in range(2)]
    for mode, num_cached in ((PrefixCache.OFF, 0), (PrefixCache.ON, 64)):
        core = harness.core(mode)
        requests = [driving.begin(core, driving.greedy(str(index), prompt, 2)) for index, prompt in enumerate(prompts)]
        driving.run(core)
        assert requests[1].num_cached_tokens == num_cached


def test_parts_are_layers_head_and_attention(checkpoint: Checkpoint) -> None:
    report = measure_kernels(checkpoint, KernelWork(rows=(1, 8), head_rows=(1, 2), depths=(64, 99_999), repeat=1), OPTIONS)
    assert names(report)[:4] == ["layers, 1 rows", "layers, 8 rows", "head, 1 rows", "head, 2 rows"]
    assert len(report.speeds) == 6
    assert all("at depth 64" in name for name in names(report)[4:])
    assert report.notes


def test_start_times_fresh_processes(config_file: Path, tmp_path: Path) -> None:
    save_random_model(config_file, tmp_path)
    report = measure_startup(StartupWork(directory=tmp_path, repeat=1), OPTIONS)
    parts = ["import", "engine", "files", "fingerprint", "weights", "load", "first token", "ready", "process"]
    assert names(report) == [*parts, *(f"{part}, packed cache" for part in parts)]
    for kind in (report.speeds[:9], report.speeds[9:]):
        seconds = {speed.name.removesuffix(", packed cache"): speed.seconds for speed in kind}
        assert seconds["load"] == pytest.approx(sum(seconds[part] for part in ("files", "fingerprint", "weights")))
        assert seconds["ready"] == pytest.approx(sum(seconds[part] for part in ("import", "engine", "load", "first token")))
        assert seconds["process"] > seconds["ready"]


def test_a_start_from_gguf_counts_the_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(*small_model()))
    seconds = load_and_answer(str(path), OPTIONS)
    assert list(seconds) == ["files", "tokenizer", "fingerprint", "weights", "load", "first token"]
    assert seconds["load"] == pytest.approx(sum(list(seconds.values())[:4]))
    assert all(duration > 0 for duration in seconds.values())


def test_a_workload_beyond_the_context_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="exceeds the model's context"):
        measure(checkpoint, Workload(num_prompt=2000, num_new=1), OPTIONS)


@pytest.mark.parametrize("family", CONFIGS)
def test_saved_weights_load_as_they_were(family: str, tmp_path: Path) -> None:
    config = tmp_path / "shape.json"
    config.write_text(json.dumps(CONFIGS[family]))
    save_random_model(config, tmp_path / "model")
    expected, found = random_checkpoint(config), load_checkpoint(tmp_path / "model")
    assert found.spec == expected.spec
    tolerance = 2.0**-6 if family == "gemma3_text" else 0.0  # its norms are stored less one, rounded to bfloat16
    for name, tensor in expected.weights.items():
        np.testing.assert_allclose(found.weights[name].to_float32(), tensor.to_float32(), rtol=0, atol=tolerance)


def test_a_workload_beyond_memory_is_refused_with_the_numbers(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="the workload needs more KV memory than there is") as caught:
        Harness(checkpoint, OPTIONS, Room(num_requests=10**12, num_tokens=100))
    assert "1000000000000 requests of 100 tokens" in str(caught.value.given)


def test_random_weights_beyond_memory_are_refused_before_they_are_made(config_file: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 65_536, "head_dim": 64, "intermediate_size": 1_048_576, "num_hidden_layers": 1024}
    (tmp_path / "config.json").write_text(json.dumps(json.loads(config_file.read_text()) | sizes))
    with pytest.raises(ConfigError, match="random weights of this shape need more memory than there is"):
        random_checkpoint(tmp_path / "config.json")
