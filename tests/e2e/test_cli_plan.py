"""`quire plan` as a user runs it: tables, JSON with stable names, and bad input that ends in one line and exit code 2."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from quire.cli.main import cli
from quire.config import KVFormat
from quire.executors.native import available_isas
from support.configs import CONFIGS
from support.gguf_models import write_both
from support.published import PUBLISHED
from support.stored import stored_tensors

MISUSED = 2
FIELDS = {
    "model",
    "family",
    "num_parameters",
    "missing",
    "settings",
    "weights",
    "kv",
    "exact_key_layers",
    "memory",
    "flops",
    "times",
    "notes",
}


def quire(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["plan", *map(str, arguments)])


def read(*arguments: str | Path) -> dict[str, Any]:
    result = quire(*arguments, "--json", "--no-measure")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def config_in(directory: Path, **fields: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(CONFIGS["llama"] | fields))
    return path


def assert_misuse(result: Result, *words: str) -> None:
    assert result.exit_code == MISUSED, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    last = result.stderr.strip().splitlines()[-1]
    assert last.lower().startswith("error: ")
    for word in words:
        assert word in last


def test_the_bundled_model_is_planned_by_default() -> None:
    plan = read()
    assert set(plan) == FIELDS
    assert plan["missing"] is None
    assert plan["memory"]["fits"] is True
    assert set(plan["kv"]) == {each.value for each in KVFormat}
    assert plan["times"] is None


@pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
def test_tables_name_every_format_and_times_are_called_limits(tmp_path: Path) -> None:
    result = quire(config_in(tmp_path), "--context", "100", "--concurrency", "3", "--threads", "1")
    assert result.exit_code == 0, result.output
    for words in (
        "3 requests of 100",
        "int8-int4",
        "64 at once",
        "rooflines of",
        "limits",
        "`quire run` needs model.safetensors",
    ):
        assert words in result.stdout
    assert "\x1b" not in result.stdout


def test_llama_2_7b_takes_half_a_mebibyte_a_token(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(next(each.fields for each in PUBLISHED if each.name == "Llama-2-7b")))
    plan = read(path, "--context", "1000", "--dtype", "bfloat16")
    assert plan["num_parameters"] == 6_738_415_616
    assert plan["kv"]["bfloat16"]["bytes_per_token"] == 2**19
    assert plan["flops"]["generated_token"] == pytest.approx(14e9, rel=0.03)


def test_options_mean_what_they_mean_for_loading(tmp_path: Path) -> None:
    plan = read(config_in(tmp_path), "--kv-memory", "1MiB", "--kv-format", "float32", "--max-num-seqs", "2", "--quantize", "int8")
    settings = plan["settings"]
    assert (settings["kv_memory"], settings["kv_format"], settings["weights"]) == (2**20, "float32", "int8")
    assert plan["kv"]["float32"]["num_blocks"] == 2**20 // plan["kv"]["float32"]["bytes_per_block"]
    assert plan["memory"]["weights"] == plan["weights"]["int8"]


def test_a_load_beyond_the_kv_memory_says_how_much_it_takes(tmp_path: Path) -> None:
    config, load = config_in(tmp_path), ("--context", "512", "--concurrency", "9", "--kv-format", "bfloat16")
    (note,) = (each for each in read(config, "--kv-memory", "256KiB", *load)["notes"] if "9 x 512 tokens" in each)
    assert "--kv-memory 1MiB or more" in note  # 9 x 512 tokens of 128 bytes, in whole MiB
    assert not any("9 x 512" in each for each in read(config, "--kv-memory", "1MiB", *load)["notes"])


def test_a_gguf_file_and_a_directory_with_weights_have_all_they_need(tiny_model: Path, tmp_path: Path) -> None:
    assert read(tiny_model)["missing"] is None
    path = write_both(tmp_path, "llama", CONFIGS["llama"], stored_tensors("llama"))
    plan = read(path)
    assert plan["missing"] is None


def test_a_directory_without_weights_is_planned_and_not_run(tiny_model: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_model, directory)
    (directory / "model.safetensors").unlink()
    assert read(directory)["missing"] == "model.safetensors"
    ran = CliRunner().invoke(cli, ["run", "-m", str(directory), "hi"])
    assert ran.exit_code != 0
    assert "model.safetensors" in ran.stderr
    assert isinstance(ran.exception, SystemExit)


def test_windows_and_key_biases_are_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["gemma3_text"]))
    assert any("see the last 32 tokens only" in note for note in read(tmp_path)["notes"])
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["qwen2"]))
    assert any("large biases stay bfloat16: known once" in note for note in read(tmp_path)["notes"])


def test_layers_with_large_key_biases_are_named_once_weights_are_there(tmp_path: Path) -> None:
    tensors = {name: np.ones_like(values) for name, values in stored_tensors("qwen2").items()}
    name = next(each for each in tensors if each.endswith("layers.2.self_attn.k_proj.bias"))
    write_both(tmp_path, "qwen2", CONFIGS["qwen2"], tensors | {name: tensors[name] * np.float32(500)})
    plan = read(tmp_path / "hub")
    assert plan["exact_key_layers"] == [2]
    assert any("keys of layers 2 stay bfloat16" in note for note in plan["notes"])
    assert plan["missing"] is None


# -- bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nothing.json", "nowhere/at/all", "/nowhere/at/all/config.json", "empty", ""])
def test_a_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("QUIRE_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert_misuse(quire(name), "given: ")


def test_a_config_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 2**30)
    for named in (tmp_path, path):
        assert_misuse(quire(named), "too large", "limit: 1048576 bytes")
    assert CliRunner().invoke(cli, ["bench", "decode", "--config", str(path)]).exit_code != 0


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert_misuse(quire(tmp_path), "config.json")
    assert_misuse(quire(tmp_path / "config.json"), "config.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b"PK\x03\x04"])
def test_a_config_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert_misuse(quire(tmp_path), "config.json", "given: ")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}, "LlamaForCausalLM"),
        ({"architectures": None, "model_type": None}, "architecture"),
        ({"hidden_size": -48}, "hidden_size"),
        ({"hidden_size": 10**30}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "48"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"vocab_size": True}, "vocab_size"),
        ({"num_attention_heads": 13}, "given: 13 query heads"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
        ({"intermediate_size": 2.5}, "intermediate_size"),
        ({"surprise": 1}, "surprise"),
        ({"quantization_config": {"quant_method": "magic"}}, "quant_method"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_honored(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    assert_misuse(quire(config_in(tmp_path, **fields)), words)


def test_sizes_that_are_absent_have_the_defaults_of_their_family(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    assert read(path)["num_parameters"] == 6_738_415_616


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--kv-format", "int3"), ("int3", "int4")),
        (("--kv-memory", "0"), ("given: 0",)),
        (("--kv-memory", "1e999"), ("1e999", "2GiB")),
        (("--kv-memory", "9" * 400), ("2GiB",)),
        (("--kv-memory", "-1"), ("-1",)),
        (("--kv-memory", "100"), ("given: 100 B", "at least 4096 bytes")),
        (("--kv-memory", "8191", "--kv-format", "float32"), ("at least 8192 bytes", "--kv-memory")),
        (("--context", "0"), ("--context",)),
        (("--context", "513"), ("given: 513", "limit: 512")),
        (("--concurrency", "0"), ("--concurrency",)),
        (("--concurrency", "99999999999"), ("--concurrency",)),
        (("--max-context", "513"), ("limit: 512",)),
        (("-m", "other"), ("Name one model",)),
        (("--quantize", "int4", "--executor", "torch"), ("torch",)),
    ],
    ids=str,
)
def test_options_that_cannot_be(tmp_path: Path, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_misuse(quire(config_in(tmp_path), *options), *words)


@pytest.mark.parametrize("kind", ["int8", "int8-int4", "int4"])
def test_a_kv_format_that_an_executor_lacks(tmp_path: Path, kind: str) -> None:
    assert_misuse(quire(config_in(tmp_path), "--executor", "torch", "--kv-format", kind), kind, "float32, bfloat16")
