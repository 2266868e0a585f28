"""What `quire plan` predicts is what a process takes: a model is loaded, its cache filled, and resident memory read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quire.executors.native import available_isas
from support.configs import CONFIGS

pytestmark = [
    pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell resident memory"),
]
TESTS = Path(__file__).parents[1]
LARGER = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 32768,
    "max_position_embeddings": 2048,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bfloat16": ("llama", {"kv_memory": "64MiB"}),
    "sliding windows": ("gemma3_text", {"kv_memory": "64MiB"}),
    "int4 keys and values": ("llama", {"kv_memory": "48MiB", "kv_format": "int4", "max_num_seqs": 8}),
    "int4 weights": ("qwen3", {"kv_memory": "96MiB", "quantize": "int4", "calibrate": "none"}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_takes_what_was_planned(tmp_path: Path, name: str) -> None:
    family, options = SHAPES[name]
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIGS[family] | LARGER))
    command = [sys.executable, "-m", "support.resident", str(config), json.dumps({"threads": 2, **options})]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["resident"] == pytest.approx(found["planned"], rel=0.05)
