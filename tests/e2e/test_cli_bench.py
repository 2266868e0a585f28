"""`quire bench` as a user runs it: every question ends in one JSON line that says where it was measured and how."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from quire.bench.held_out import PROSE, held_out_texts
from quire.bench.recall import recall_chats
from quire.cli.main import cli
from quire.executors.native import available_isas

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
SPEED_FIELDS = {
    "name",
    "seconds",
    "tokens_per_second",
    "spread",
    "roofline_seconds",
    "share_of_roofline",
    "share_of_bandwidth",
    "share_of_flops",
    "ratio",
    "ratio_is",
}


@pytest.fixture(scope="module")
def shape(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(tiny_model / "config.json", tmp_path_factory.mktemp("shape") / "shape.json"))


@pytest.mark.parametrize(
    ("arguments", "num_speeds"),
    [
        (("decode", "--depth", "40", "--new", "4"), 2),
        (("batch", "--new", "3", "--largest", "2"), 2),
        (("prefix", "--requests", "2", "--shared", "64", "--own", "16", "--new", "2"), 4),
        (("start",), 18),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_benchmark_ends_with_its_circumstances(shape: Path, arguments: tuple[str, ...], num_speeds: int) -> None:
    common = ("--config", str(shape), "--repeat", "1", "--threads", "1")
    result = CliRunner().invoke(cli, ("bench", *arguments, *common))
    assert result.exit_code == 0, result.output
    assert re.search(r"peak after: \d+\.\d GB/s \(\w+ (prefetch|prefetches|loads), \w+ streams?, ", result.stdout)
    assert "weights are prefetched: both (default)" in result.stdout or arguments[0] == "start"
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["bench"] == arguments[0]
    assert len(report["speeds"]) == num_speeds
    assert all(set(speed) == SPEED_FIELDS and speed["seconds"] > 0 for speed in report["speeds"])
    assert report["settings"]["model"] == "shape.json"
    assert report["settings"]["repeat"] == 1
    assert {"machine", "versions", "before", "after", "executor", "threads", "weights", "kv_format"} <= set(report)
    assert report["versions"]["quire"]
    assert report["machine"]["num_usable_cores"] >= 1


def test_every_benchmark_has_help_with_an_example() -> None:
    for name in ("decode", "prefill", "batch", "prefix", "kernels", "start", "quality", "overhead", "serve"):
        assert "Example:" in CliRunner().invoke(cli, ("bench", name, "--help")).stdout


def test_quality_compares_formats_on_a_text_of_the_bundled_model(tmp_path: Path) -> None:
    text = tmp_path / "chat.txt"
    text.write_text("<|user|>What is the capital of France?<|end|><|assistant|>Paris is the capital of France.<|end|>")
    result = CliRunner().invoke(cli, ("bench", "quality", "--text", str(text), "--context", "16", "--threads", "1"))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["bench"] == "quality"
    assert report["settings"] == {"model": "bundled", "against": None, "text": "chat.txt"}
    assert report["context"] == 16
    assert report["formats"][0]["tokens"]["top1"] == 1
    assert {each["weights"] for each in report["formats"]} >= {"float32", "bfloat16"}
    assert {"machine", "versions", "executor", "threads", "num_pieces"} <= set(report)


def test_quality_reads_held_out_chats_by_default_and_tells_answers_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.bench.held_out.held_out_texts", lambda tokenizer: held_out_texts(tokenizer)[::8])
    monkeypatch.setattr("quire.bench.recall.recall_chats", lambda tokenizer: recall_chats(tokenizer, 1))
    result = CliRunner().invoke(cli, ("bench", "quality", "--threads", "1", "--json"))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["settings"]["text"] == "held-out chats"
    reference = report["formats"][0]
    assert reference["answers"]["perplexity"] < 1.5 < reference["tokens"]["perplexity"]
    assert [each["kv"] for each in report["kv"]["formats"]] == ["float32", "int8", "int8-int4", "int4"]
    assert report["kv"]["smallest_kv"] == "int4"
    assert report["kv"]["recall_of_bfloat16"]["num_asked"] == 10


def test_quality_reads_prose_with_any_other_model(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    excerpt = tmp_path / "prose.txt"
    excerpt.write_text(PROSE.read_text(encoding="utf-8")[:200])
    monkeypatch.setattr("quire.bench.held_out.PROSE", excerpt)
    result = CliRunner().invoke(cli, ("bench", "quality", "-m", str(tiny_model), "--threads", "1", "--json"))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["settings"]["text"] == "prose"
    assert report["formats"][0]["bits"]["everywhere"] >= 32


def test_quality_against_another_model_measures_float32_too(tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("abc bca cab " * 4)
    options = ("-m", str(tiny_model), "--against", str(tiny_model), "--text", str(text), "--threads", "1", "--json")
    result = CliRunner().invoke(cli, ("bench", "quality", *options))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["settings"]["against"] == str(tiny_model)
    reference, itself = report["formats"][:2]
    assert (itself["weights"], itself["kv"]) == ("float32", "float32")
    assert itself["tokens"] == reference["tokens"]
    refused = CliRunner().invoke(cli, ("bench", "quality", "-m", str(tiny_model), "--against", "nowhere", "--text", str(text)))
    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--config", "shape.json"), "random weights have no quality"),
        (("-m", "elsewhere"), "elsewhere"),
        (("--text", "missing.txt"), "cannot be read"),
    ],
)
def test_quality_refuses_what_it_cannot_say_anything_about(arguments: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(cli, ("bench", "quality", *arguments))
    assert result.exit_code != 0
    assert words in result.stderr


def test_overhead_needs_no_fast_model(tiny_model: Path) -> None:
    result = CliRunner().invoke(cli, ("bench", "overhead", "-m", str(tiny_model), "--steps", "2", "--repeat", "1"))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    names = [each["name"] for each in report["overheads"]]
    assert names[0] == "tokens, batch 1"
    assert len(names) == 11
    assert report["settings"]["steps"] == 2
