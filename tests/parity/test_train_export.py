"""A `Decoder` of any family, written to a directory, is the same model to `transformers` and to Quire.

float32 logits: within 1e-5 of the largest logit of the Decoder for transformers, within 1e-4 for the native core, as in
test_parity.py. Tensors of a checkpoint that were loaded and written again: equal bit for bit. The one exception are
Gemma's norms: it stores w, we hold 1 + w in float32, so a float32 w keeps what lies above half a unit in the last place.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

from quire import LLM, SamplingParams
from quire.config import DType
from quire.errors import ConfigError, ModelError, TokenizerError
from quire.executors.native import available_isas
from quire.executors.torch_decoder import Decoder
from quire.models.checkpoint import load_checkpoint
from quire.models.config_file import parse_config
from quire.models.families import build_spec
from quire.text.tokenizer import Tokenizer
from quire.train.export import Description, export_model
from quire.train.tokenizer import save_tokenizer, train_tokenizer
from support.configs import CONFIGS
from support.driver import make_driver
from support.pair import Pair
from support.tiny_tokenizers import word_piece_backend
from support.weights import random_weights

NATIVE_BOUND = 1e-4
TRANSFORMERS_BOUND = 1e-5
NORM_BOUND = 2.0**-23
NUM_TOKENS = 60
TEXTS = ["Paris is the capital of France.", "Rome is the capital of Italy."] * 3


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A small llama with its tokenizer, both ready to export."""

    model: Decoder
    config: dict[str, Any]
    tokenizer_directory: Path

    def export(self, directory: Path, card: str = "# A model\n", dtype: torch.dtype = torch.float32) -> Path:
        about = Description(config=self.config, tokenizer_directory=self.tokenizer_directory, card=card)
        export_model(self.model, about, directory, dtype)
        return directory


@pytest.fixture(scope="module")
def few_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of fewer tokens than the smallest model."""
    directory = tmp_path_factory.mktemp("tokenizer")
    word_piece_backend().save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "bos_token": "<|bos|>"}))
    return directory


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    directory = tmp_path_factory.mktemp("trained")
    save_tokenizer(train_tokenizer(TEXTS, 280), directory, max_context=512)
    return World(model=llama(seed=0), config=llama_config(), tokenizer_directory=directory)


def llama_config(**changes: Any) -> dict[str, Any]:
    return {**CONFIGS["llama"], "vocab_size": 280, "num_hidden_layers": 2, **changes}


def llama(seed: int, **changes: Any) -> Decoder:
    spec = build_spec(parse_config(json.dumps(llama_config(**changes)).encode()))
    return Decoder.from_weights(spec, random_weights(spec, seed))


def fresh_export(pair: Pair, directory: Path, tokenizer_directory: Path) -> Decoder:
    """Writes a new random model of the pair's shape, and returns it."""
    spec = pair.checkpoint.spec
    decoder = Decoder.from_weights(spec, random_weights(spec, seed=3))
    config = json.loads((pair.checkpoint.directory / "config.json").read_text())
    about = Description(config=config, tokenizer_directory=tokenizer_directory, card="# Fresh\n")
    export_model(decoder, about, directory, torch.float32)
    return decoder


def logits_of(decoder: Decoder, token_ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return decoder(torch.tensor([token_ids]), use_cache=False)[0][0].numpy()


def tensors_in(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_fresh_model_is_the_same_to_transformers_and_to_quire(pair: Pair, few_words: Path, tmp_path: Path) -> None:
    decoder = fresh_export(pair, tmp_path, few_words)
    prompt = np.random.default_rng(1).integers(0, decoder.spec.vocab_size, NUM_TOKENS).tolist()
    expected = logits_of(decoder, prompt)
    largest = float(np.abs(expected).max())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        np.testing.assert_allclose(theirs(torch.tensor([prompt])).logits[0], expected, rtol=0, atol=TRANSFORMERS_BOUND * largest)
    ours = load_checkpoint(tmp_path, max_context=pair.case.max_context)
    assert ours.spec == decoder.spec
    driver = make_driver("native" if available_isas() else "reference", ours, DType.FLOAT32)
    np.testing.assert_allclose(driver.logits(prompt), expected, rtol=0, atol=NATIVE_BOUND * largest)


def test_tensors_of_a_checkpoint_come_back_bit_for_bit(pair: Pair, few_words: Path, tmp_path: Path) -> None:
    source = pair.checkpoint.directory
    dtype = torch.bfloat16 if pair.case.stored_as is torch.bfloat16 else torch.float32
    decoder = Decoder.from_weights(pair.checkpoint.spec, pair.checkpoint.weights)
    config = json.loads((source / "config.json").read_text())
    export_model(decoder, Description(config=config, tokenizer_directory=few_words, card=""), tmp_path, dtype)
    actual, expected = tensors_in(tmp_path), tensors_in(source)
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        has_offset = pair.case.stem == "Gemma3" and tensor.ndim == 1 and dtype is torch.float32
        bound = NORM_BOUND if has_offset else 0
        torch.testing.assert_close(tensor, expected[name].to(dtype), rtol=0, atol=bound)


def test_config_and_token_ids_mean_the_same_to_both(pair: Pair, few_words: Path, tmp_path: Path) -> None:
    fresh_export(pair, tmp_path, few_words)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.to_dict()["model_type"] == pair.model.config.model_type
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        None,
    )
    assert transformers.GenerationConfig.from_pretrained(tmp_path).eos_token_id == tokenizer.eos_token_id
    assert theirs.dtype is torch.float32


def test_engine_scores_the_export_as_the_decoder_does(world: World, tmp_path: Path) -> None:
    with LLM(world.export(tmp_path / "model"), dtype="float32") as llm:
        score = llm.score(TEXTS[0])
    token_ids = list(score.token_ids)
    with torch.no_grad():
        logprobs = torch.tensor(logits_of(world.model, token_ids)).log_softmax(-1)
    expected = logprobs[torch.arange(len(token_ids) - 1), torch.tensor(token_ids[1:])]
    np.testing.assert_allclose([value for value in score.logprobs if value is not None], expected, rtol=0, atol=1e-4)


def test_bfloat16_export_rounds_every_parameter_to_nearest(world: World, tmp_path: Path) -> None:
    directory = world.export(tmp_path / "model", dtype=torch.bfloat16)
    weights = load_checkpoint(directory).weights
    for name, parameter in world.model.state_dict().items():
        np.testing.assert_array_equal(weights[name].to_float32(), parameter.bfloat16().float().numpy())
    assert transformers.AutoModelForCausalLM.from_pretrained(directory).dtype is torch.bfloat16


def test_directory_holds_what_the_hub_expects(world: World, tmp_path: Path) -> None:
    directory = world.export(tmp_path / "deep" / "model", card="# Mine\n")
    assert sorted(path.name for path in directory.iterdir()) == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (directory / "README.md").read_text() == "# Mine\n"
    with safe_open(directory / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((directory / "config.json").read_text())
    assert (config["dtype"], config["eos_token_id"], config["pad_token_id"], config["bos_token_id"]) == ("float32", 0, 0, None)
    assert "torch_dtype" not in config


def test_export_of_a_model_that_was_quantized_is_not_called_quantized(world: World, tmp_path: Path) -> None:
    quantized = {"quantization_config": {"quant_method": "awq"}, "quantization": {"bits": 4, "group_size": 32}}
    about = Description(config=world.config | quantized, tokenizer_directory=world.tokenizer_directory, card="")
    export_model(world.model, about, tmp_path, torch.float32)
    assert not quantized.keys() & json.loads((tmp_path / "config.json").read_text()).keys()


def test_transformers_generates_and_chats_from_the_export(world: World, tmp_path: Path) -> None:
    directory = world.export(tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    messages = [{"role": "user", "content": "Paris?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    theirs = model.generate(**prompt, max_new_tokens=8)[0, prompt["input_ids"].shape[1] :].tolist()
    with LLM(directory, dtype="float32") as llm:
        [answer] = llm.chat(messages, SamplingParams(temperature=0, max_tokens=8))
    assert list(answer.outputs[0].token_ids) == theirs


def test_named_chat_templates_are_exported_and_those_of_an_older_export_are_not_left(world: World, tmp_path: Path) -> None:
    source = shutil.copytree(world.tokenizer_directory, tmp_path / "source")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates/rag.jinja").write_text("{{ documents }}")
    named = World(model=world.model, config=world.config, tokenizer_directory=source)
    directory = named.export(tmp_path / "model")
    expected = Tokenizer.from_directory(source).chat_template
    assert isinstance(expected, Mapping)
    assert expected.keys() == {"default", "rag"}
    assert Tokenizer.from_directory(directory).chat_template == expected
    world.export(directory)
    assert Tokenizer.from_directory(directory).chat_template == expected["default"]


@pytest.mark.parametrize("num_moves", range(7))
def test_interrupted_export_over_itself_leaves_a_whole_model(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_moves: int
) -> None:
    directory = world.export(tmp_path / "model")
    later = World(model=llama(seed=1), config=world.config, tokenizer_directory=world.tokenizer_directory)
    monkeypatch.setattr(os, "replace", failing_after(num_moves))
    with pytest.raises(ConfigError, match="No space left"):
        later.export(directory)
    found = load_checkpoint(directory).weights["embed.weight"].to_float32()
    candidates = [model.embed.weight.detach().numpy() for model in (world.model, later.model)]
    assert sum(np.array_equal(found, candidate) for candidate in candidates) == 1
    assert len(list(directory.iterdir())) == 7


@pytest.mark.parametrize("num_moves", range(7))
def test_interrupted_export_over_another_model_never_mixes_the_two(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_moves: int
) -> None:
    directory = world.export(tmp_path / "model")
    wider = World(
        model=llama(seed=1, rms_norm_eps=1e-3),
        config=llama_config(rms_norm_eps=1e-3),
        tokenizer_directory=world.tokenizer_directory,
    )
    monkeypatch.setattr(os, "replace", failing_after(num_moves))
    with pytest.raises(ConfigError):
        wider.export(directory)
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_checkpoint(directory)


def failing_after(num_moves: int) -> Callable[[Path, Path], None]:
    """Returns an `os.replace` for which the disk is full after so many calls."""
    move, moved = os.replace, []

    def replace(source: Path, target: Path) -> None:
        if len(moved) == num_moves:
            raise OSError(errno.ENOSPC, "No space left on device")
        moved.append(target)
        move(source, target)

    return replace


def test_export_over_another_model_replaces_it_and_its_tokenizer(world: World, few_words: Path, tmp_path: Path) -> None:
    world.export(tmp_path / "model")
    (tmp_path / "model" / "curve.csv").write_text("kept")
    other = World(model=llama(seed=2), config=world.config, tokenizer_directory=few_words)
    directory = other.export(tmp_path / "model")
    assert not (directory / "chat_template.jinja").exists()
    assert (directory / "curve.csv").read_text() == "kept"
    assert transformers.AutoTokenizer.from_pretrained(directory).bos_token_id == word_piece_backend().token_to_id("<|bos|>")
    np.testing.assert_array_equal(
        load_checkpoint(directory).weights["embed.weight"].to_float32(), other.model.embed.weight.detach().numpy()
    )


def test_config_of_another_model_is_refused(world: World, tmp_path: Path) -> None:
    wrong = World(model=world.model, config=llama_config(rms_norm_eps=1e-3), tokenizer_directory=world.tokenizer_directory)
    with pytest.raises(ConfigError, match="norm_eps"):
        wrong.export(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_tokenizer_with_more_tokens_than_the_model_is_refused(world: World, tmp_path: Path) -> None:
    save_tokenizer(train_tokenizer(TEXTS, 281), tmp_path, max_context=512)
    with pytest.raises(ConfigError, match="given: 281; limit: 280"):
        World(model=world.model, config=world.config, tokenizer_directory=tmp_path).export(tmp_path / "model")


def test_missing_tokenizer_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read"):
        World(model=world.model, config=world.config, tokenizer_directory=tmp_path).export(tmp_path / "model")


def test_other_number_formats_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="float16"):
        world.export(tmp_path / "model", dtype=torch.float16)


def test_file_in_the_place_of_the_directory_is_reported(world: World, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be written"):
        world.export(tmp_path / "model")
