"""`benchmarks/compare.py` as a user runs it, on a tiny shape: Quire, transformers, and one who is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quire.executors.native import available_isas

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
ROOT = Path(__file__).parents[2]
SHAPE = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "head_dim": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


SIZES = ("--prompt", "16", "--deep", "64", "--new", "6", "--batches", "2", "200", "--threads", "1")
REUSE = ("--requests", "3", "--shared", "64", "--own", "4")


def compare(*words: str) -> None:
    command = [sys.executable, "benchmarks/compare.py", *words]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=200)


def test_contestants_alternate_and_the_report_is_written(tmp_path: Path) -> None:
    config, out = tmp_path / "tiny.json", tmp_path / "out"
    config.write_text(json.dumps(SHAPE))
    who = ("--contestants", "quire:bfloat16", "transformers:bfloat16", "transformers:int8")
    compare(str(config), *SIZES, *REUSE, *who, "--rounds", "2", "--out", str(out))
    found = json.loads((out / "results.json").read_text())
    names = {"decode, batch 1, depth 0", "decode, batch 1, depth 64", "prefill 16", "prefill 64"}
    names |= {"decode, batch 2, depth 0", "decode, batch 200, depth 0", "second turn, 64 known + 4 new"}
    shared = "3 requests, 64 shared + 4 own, 12 new"
    for contestant, measured in (("quire:bfloat16", names | {shared}), ("transformers:bfloat16", names)):
        assert set(found["tokens_per_second"][contestant]) == measured
        assert all(len(rates) == 2 for rates in found["tokens_per_second"][contestant].values())
        assert found["contestants"][contestant]
    assert found["missing"]["transformers:int8"] == "compared in bfloat16, float32 only"
    assert found["missing"][f"transformers:bfloat16, {shared}"] == "shares no prefix between requests"
    assert found["equal_tokens"]["transformers:bfloat16"][0] >= 1
    assert len(found["peaks"]) == 3
    text = (out / "results.md").read_text()
    assert "## Where we lose" in text
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")


def test_a_comparison_in_pieces_becomes_one_report(tmp_path: Path) -> None:
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps(SHAPE))
    common = (str(config), "--contestants", "quire:bfloat16", "--rounds", "1", "--work", str(tmp_path / "work"), *SIZES)
    compare(*common, "--workloads", "decode", "--out", str(tmp_path / "a"))
    compare(*common, "--workloads", "decode", "turn", "--first-round", "1", *REUSE, "--out", str(tmp_path / "b"))
    pieces = [str(tmp_path / name / "results.json") for name in "ab"]
    compare(str(config), "--merge", *pieces, "--out", str(tmp_path / "all"))
    found = json.loads((tmp_path / "all" / "results.json").read_text())
    rates = found["tokens_per_second"]["quire:bfloat16"]
    assert {name: len(each) for name, each in rates.items()} == {
        "decode, batch 1, depth 0": 2,
        "second turn, 64 known + 4 new": 1,
    }
    assert len(found["commands"]) == 2
    assert len(found["peaks"]) == 4
