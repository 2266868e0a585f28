"""A GGUF file wherever a command or a function takes a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import quire
from quire import LLM, SamplingParams
from quire.bench.harness import chunk_step
from quire.cli.main import cli
from quire.engine.loading import load_executor
from quire.engine.options import engine_config
from quire.errors import ModelNotFoundError
from quire.models.hub import find_model
from support.gguf_mutations import small_model
from support.gguf_quantized import quantized_file
from support.gguf_writer import gguf_bytes

GREEDY = ("--max-tokens", "4", "--temperature", "0", "--threads", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small-Q4_K_M.gguf"
    path.write_bytes(gguf_bytes(*small_model()))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def test_commands_take_the_file_or_its_directory(model: Path) -> None:
    results = [run("run", "-m", name, "ab", "--raw", *GREEDY, "--json") for name in (model, model.parent)]
    assert [result.exit_code for result in results] == [0, 0], results[0].output
    ids = [json.loads(result.stdout)["token_ids"] for result in results]
    with LLM(model, threads=1) as llm:
        assert llm.config.max_context == 512
        expected = llm.generate("ab", SamplingParams(temperature=0, max_tokens=4))[0].outputs[0].token_ids
    assert ids == [list(expected)] * 2


def test_the_executors_compute_the_same_model(model: Path) -> None:
    tokens = np.array([[1, 5, 9]])
    expected = quire.load_model(model, executor="reference")(tokens)[0]
    for executor in ("native", "torch"):
        found = quire.load_model(model, executor=executor)(tokens)[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


def test_verify_takes_the_file(model: Path) -> None:
    verified = run("verify", "-m", model, "--threads", "1")
    assert verified.exit_code == 0, verified.output


def test_models_describes_the_file(model: Path) -> None:
    shown = run("models", model)
    assert shown.exit_code == 0
    for words in ("architecture llama", "F32", "chat template    yes", "512 tokens"):
        assert words in shown.stdout
    found = json.loads(run("models", model, "--json").stdout)
    assert found["gguf"]["tensors_by_kind"] == {"F32": found["gguf"]["tensors_by_kind"]["F32"]}
    assert found["file_bytes"] == found["gguf"]["file_bytes"] == model.stat().st_size


def test_a_missing_file_is_no_hub_id() -> None:
    with pytest.raises(ModelNotFoundError, match="no such GGUF file"):
        find_model("org/model-Q8_0.gguf")


def test_a_directory_of_several_models_asks_for_one(tmp_path: Path) -> None:
    for name in ("a-Q8_0.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"several GGUF models.*a-Q8_0.gguf.*b-00001-of-00002.gguf"):
        find_model(str(tmp_path))
    (tmp_path / "a-Q8_0.gguf").unlink()
    assert find_model(str(tmp_path)).name == "b-00001-of-00002.gguf"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert find_model(str(tmp_path)) == tmp_path


def test_training_asks_for_the_original(model: Path, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("abc abc abc")
    result = run("train", tmp_path / "data.txt", "-o", tmp_path / "out", "--model", model)
    assert result.exit_code == 2
    assert "not from a GGUF file" in result.output


def test_models_says_what_quantized_weights_take_in_memory(tmp_path: Path) -> None:
    path = quantized_file(tmp_path, "Q8_0", "Q4_K")
    shown = run("models", path)
    assert shown.exit_code == 0
    assert "6.23 bits per weight: 59% 4 bits in groups of 32, minimums; 41% 8 bits" in " ".join(shown.stdout.split())
    found = json.loads(run("models", path, "--json").stdout)["in_memory"]
    assert found["num_weights"] == {"4 bits in groups of 32, minimums": 360_448, "8 bits in groups of 32": 253_952}
    assert found["bits_per_weight"] == pytest.approx((4.625 * 360_448 + 8.5 * 253_952) / 614_400)


def test_quantized_weights_are_held_as_they_are_stored(tmp_path: Path) -> None:
    path = quantized_file(tmp_path, "Q8_0", "Q4_K", "Q6_K")
    tokens = np.array([[1, 5, 9, 30, 2]])
    exact = quire.load_model(path)(tokens)[0]
    _, executor, _ = load_executor(path, engine_config({"kv_format": "float32", "kv_memory": "16MiB"}))
    assert "weights=stored" in executor.numerics
    executor.run(chunk_step(tokens[0].tolist(), 0, executor.layout))
    found = executor.head(np.arange(5, dtype=np.int32))
    np.testing.assert_allclose(found, exact[0], rtol=0, atol=0.05 * float(np.abs(exact).max()))
