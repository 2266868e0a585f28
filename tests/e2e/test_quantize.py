"""`quire quantize`: a checkpoint that Quire reads back to the bits of its codes, that continues, and that replaces nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner, Result

from quire import LLM, SamplingParams
from quire.cli.main import cli
from quire.models.checkpoint import Checkpoint, load_checkpoint
from quire.models.safetensors_file import SafetensorsFile, open_safetensors
from quire.quantize.output import PROGRESS, OutputDirectory
from quire.text.tokenizer import Tokenizer
from support.fake_engine import VOCAB_SIZE, write_tokenizer
from support.gguf_mutations import small_model
from support.gguf_writer import gguf_bytes

TEXT = "abc bca cab aab bcc " * 40


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["quantize", *map(str, arguments)])


def saved_model(directory: Path, **changes: object) -> Path:
    """Returns a tiny model whose rows are whole groups, with outliers as trained models have them."""
    torch.manual_seed(11)
    config = transformers.Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        **changes,
    )
    transformers.utils.logging.disable_progress_bar()
    model = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, ::13] *= 8
    model.to(torch.bfloat16).save_pretrained(directory)
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def quantized(model: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("quantized") / "w4"
    result = run(model, "-o", output, "--calibrate", text, "--threads", "1", "--report")
    assert result.exit_code == 0, result.output
    assert "model.layers.2.mlp.down_proj" in result.stdout
    assert "4.6" in result.stdout.splitlines()[-1]
    return output


def files_of(directory: Path) -> dict[str, SafetensorsFile]:
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    opened = {name: open_safetensors(directory / name) for name in set(index["weight_map"].values())}
    return {tensor: opened[name] for tensor, name in index["weight_map"].items()}


def unpacked(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Returns the codes of rows of words, by the format's own description."""
    per_word = 32 // bits
    codes = [
        (words.view(np.uint32)[:, place // per_word] >> (place % per_word * bits)) & ((1 << bits) - 1) for place in range(count)
    ]
    return np.stack(codes, axis=1).astype(np.int64)


def decoded(files: dict[str, SafetensorsFile], module: str, bits: int = 4) -> np.ndarray:
    raw = {leaf: files[f"{module}.{leaf}"].read_raw(f"{module}.{leaf}") for leaf in ("weight_packed", "weight_zero_point")}
    num_out, num_in = files[f"{module}.weight_shape"].read_raw(f"{module}.weight_shape")
    scales = files[f"{module}.weight_scale"].read(f"{module}.weight_scale").to_float32()
    codes = unpacked(raw["weight_packed"], bits, num_in)
    zeros = unpacked(np.ascontiguousarray(raw["weight_zero_point"].T), bits, num_out).T
    shifted = codes - np.repeat(zeros, 32, axis=1)
    return torch.from_numpy(shifted * np.repeat(scales, 32, axis=1)).to(torch.bfloat16).float().numpy()


def test_quire_reads_back_what_the_format_says(quantized: Path) -> None:
    checkpoint, files = load_checkpoint(quantized), files_of(quantized)
    modules = {name.removesuffix(".weight_packed") for name in files if name.endswith(".weight_packed")}
    assert len(modules) == 3 * 7
    names = {"attn.q": "self_attn.q_proj", "attn.out": "self_attn.o_proj", "ffn.down": "mlp.down_proj"}
    for canonical, module in names.items():
        found = checkpoint.weights[f"layers.1.{canonical}.weight"].to_float32()
        np.testing.assert_array_equal(found, decoded(files, f"model.layers.1.{module}"))


def test_what_is_not_quantized_is_the_sources(model: Path, quantized: Path) -> None:
    before, after = load_checkpoint(model), load_checkpoint(quantized)
    assert after.spec == before.spec
    for name, tensor in before.weights.items():
        if not name.startswith("layers.") or len(tensor.shape) == 1:
            np.testing.assert_array_equal(after.weights[name].to_float32(), tensor.to_float32())
    assert Tokenizer.from_directory(quantized).encode(TEXT) == Tokenizer.from_directory(model).encode(TEXT)


def logits(checkpoint: Checkpoint, token_ids: list[int]) -> np.ndarray:
    import quire

    return quire.load_model(checkpoint.directory, dtype="float32")(np.array([token_ids]))[0]


def test_calibration_brings_the_model_nearer_to_its_source(model: Path, quantized: Path, tmp_path: Path) -> None:
    assert run(model, "-o", tmp_path / "nearest", "--calibrate", "none", "--threads", "1").exit_code == 0
    token_ids = Tokenizer.from_directory(model).encode(TEXT)[:100]
    exact, calibrated, nearest = (logits(load_checkpoint(each), token_ids) for each in (model, quantized, tmp_path / "nearest"))
    assert np.square(calibrated - exact).mean() < 0.7 * np.square(nearest - exact).mean()


def test_eight_bits_are_nearly_the_source(model: Path, text: Path, tmp_path: Path) -> None:
    result = run(model, "-o", tmp_path / "w8", "--bits", "8", "--calibrate", text, "--threads", "1", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert 8.5 < report["layer_bits"] < 8.6
    assert max(each["error"] for each in report["matrices"]) < 1e-4
    assert {each["name"] for each in report["matrices"]} >= {"model.layers.0.self_attn.q_proj", "model.layers.2.mlp.up_proj"}


def test_an_interrupted_run_continues_and_ends_the_same(
    model: Path, text: Path, quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, written = tmp_path / "w4", []
    write = OutputDirectory.write_shard

    def interrupted(self: OutputDirectory, index: int, *arguments: Any) -> None:
        if index == 2:
            raise KeyboardInterrupt
        write(self, index, *arguments)

    def counted(self: OutputDirectory, index: int, *arguments: Any) -> None:
        written.append(index)
        write(self, index, *arguments)

    monkeypatch.setattr(OutputDirectory, "write_shard", interrupted)
    assert run(model, "-o", output, "--calibrate", text, "--threads", "1").exit_code == 130
    assert not (output / "config.json").exists()
    (output / "model-00001-of-00005.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr(OutputDirectory, "write_shard", counted)
    result = run(model, "-o", output, "--calibrate", text, "--threads", "1")
    assert result.exit_code == 0, result.output
    assert written == [2, 3, 0, 4]  # layer 0 was whole; the embedding was not
    assert {path.name for path in output.iterdir()} == {path.name for path in quantized.iterdir()}
    for path in quantized.iterdir():
        assert (output / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_finished_or_foreign_directory_is_left_alone(model: Path, text: Path, quantized: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in quantized.iterdir()}
    again = run(model, "-o", quantized, "--calibrate", text)
    assert again.exit_code == 2
    assert "not empty" in again.stderr
    assert {path.name: path.read_bytes() for path in quantized.iterdir()} == before
    (tmp_path / "notes.txt").write_text("mine")
    assert run(model, "-o", tmp_path).exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_beginning_of_another_quantization_is_not_continued(model: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / PROGRESS).write_text(json.dumps({"key": "other", "shards": {}}))
    result = run(model, "-o", tmp_path, "--calibrate", text)
    assert result.exit_code == 2
    assert "another quantization" in result.stderr


@pytest.mark.parametrize("content", ["", "a"])
def test_a_text_without_words_is_refused(model: Path, tmp_path: Path, content: str) -> None:
    text = tmp_path / "short.txt"
    text.write_text(content)
    result = run(model, "-o", tmp_path / "w4", "--calibrate", text)
    assert result.exit_code == 2
    assert "too short" in result.stderr
    assert not (tmp_path / "w4").exists()


def test_a_gguf_file_becomes_a_directory_of_the_same_model(tmp_path: Path, text: Path) -> None:
    source = tmp_path / "small.gguf"
    source.write_bytes(gguf_bytes(*small_model()))
    result = run(source, "-o", tmp_path / "w8", "--bits", "8", "--calibrate", text, "--threads", "1")
    assert result.exit_code == 0, result.output
    before, after = load_checkpoint(source), load_checkpoint(tmp_path / "w8")
    assert after.spec == before.spec
    name = "layers.0.attn.q.weight"
    np.testing.assert_allclose(after.weights[name].to_float32(), before.weights[name].to_float32(), rtol=0.1, atol=0.02)
    ours, theirs = Tokenizer.from_model(source), Tokenizer.from_directory(tmp_path / "w8")
    for words in ("ab ba  abab", "<|im_end|>", "", " a"):
        assert theirs.encode(words) == ours.encode(words)
    assert (theirs.eos_token_ids, theirs.chat_template) == (ours.eos_token_ids, ours.chat_template)
    with LLM(tmp_path / "w8", threads=1) as llm:
        assert llm.generate("ab", SamplingParams(temperature=0, max_tokens=4))[0].outputs[0].token_ids


def test_an_architecture_with_transposed_matrices_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "gpt2"
    transformers.utils.logging.disable_progress_bar()
    config = transformers.GPT2Config(
        vocab_size=VOCAB_SIZE, n_embd=64, n_layer=1, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(directory)
    write_tokenizer(directory)
    result = run(directory, "-o", tmp_path / "w4", "--calibrate", "none")
    assert result.exit_code == 1
    assert "transposed" in result.stderr


def test_a_fused_matrix_is_written_as_one(tmp_path: Path, text: Path) -> None:
    directory = tmp_path / "phi3"
    transformers.utils.logging.disable_progress_bar()
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.Phi3Config(
        vocab_size=VOCAB_SIZE,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        **sizes,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0),
    )
    transformers.Phi3ForCausalLM(config).save_pretrained(directory)
    write_tokenizer(directory)
    result = run(directory, "-o", tmp_path / "w8", "--bits", "8", "--calibrate", text, "--threads", "1")
    assert result.exit_code == 0, result.output
    assert "model.layers.0.self_attn.qkv_proj.weight_packed" in files_of(tmp_path / "w8")
    before, after = load_checkpoint(directory), load_checkpoint(tmp_path / "w8")
    for part in ("attn.v", "ffn.up"):
        name = f"layers.0.{part}.weight"
        np.testing.assert_allclose(after.weights[name].to_float32(), before.weights[name].to_float32(), rtol=0.02, atol=0.01)


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize("bits", [4, 8])
def test_transformers_loads_the_same_weights(model: Path, quantized: Path, tmp_path: Path, bits: int) -> None:
    pytest.importorskip(
        "compressed_tensors", reason="compressed-tensors, which reads the format for transformers, is not installed"
    )
    directory = quantized
    if bits == 8:
        directory = tmp_path / "w8"
        assert run(model, "-o", directory, "--bits", "8", "--calibrate", "none").exit_code == 0
    whole = transformers.CompressedTensorsConfig(dequantize=True)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(directory, quantization_config=whole, dtype=torch.bfloat16)
    checkpoint = load_checkpoint(directory)
    found = loaded.state_dict()
    for canonical, module in {"attn.v": "self_attn.v_proj", "ffn.gate": "mlp.gate_proj", "ffn.down": "mlp.down_proj"}.items():
        expected = checkpoint.weights[f"layers.2.{canonical}.weight"].to_float32()
        np.testing.assert_array_equal(found[f"model.layers.2.{module}.weight"].float().numpy(), expected)
