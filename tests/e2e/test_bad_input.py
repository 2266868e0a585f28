"""Bad input, end to end: each gives a typed error that says what to do next, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quire import LLM, SamplingParams
from quire.errors import (
    CapacityError,
    CheckpointError,
    EmptyPromptError,
    ModelError,
    ModelNotFoundError,
    PromptTooLongError,
    QuireError,
    RequestError,
    SamplingError,
    TemplateError,
    TokenizerError,
    UnknownArchitectureError,
    UnsupportedConfigError,
)

Spoil = Callable[[Path], None]


def weights_of(directory: Path) -> Path:
    return directory / "model.safetensors"


def truncate(directory: Path) -> None:
    path = weights_of(directory)
    path.write_bytes(path.read_bytes()[:-100])


def claim_ten_gigabytes_of_header(directory: Path) -> None:
    path = weights_of(directory)
    path.write_bytes(struct.pack("<Q", 10 * 10**9) + path.read_bytes()[8:])


def edit_header(directory: Path, edit: Callable[[dict[str, dict[str, object]]], None]) -> None:
    path = weights_of(directory)
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def name_an_unknown_dtype(directory: Path) -> None:
    edit_header(directory, lambda header: header["model.norm.weight"].update(dtype="F7_E3M3"))


def turn_a_shape_around(directory: Path) -> None:
    edit_header(directory, lambda header: header["model.layers.0.mlp.up_proj.weight"].update(shape=[48, 80]))


def lose_a_tensor(directory: Path) -> None:
    edit_header(directory, lambda header: header.update({"model.norm.scale": header.pop("model.norm.weight")}))


def edit_config(directory: Path, **fields: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def write_json(directory: Path, name: str, **fields: object) -> None:
    (directory / name).write_text(json.dumps(fields))


def add_a_token(directory: Path) -> None:
    write_json(directory, "tokenizer_config.json", additional_special_tokens=["<|one more|>"])


DAMAGE: list[tuple[Spoil, type[QuireError], str]] = [
    (truncate, CheckpointError, "model.safetensors"),
    (claim_ten_gigabytes_of_header, CheckpointError, "model.safetensors"),
    (name_an_unknown_dtype, CheckpointError, "F7_E3M3"),
    (turn_a_shape_around, CheckpointError, "up_proj"),
    (lose_a_tensor, CheckpointError, "model.norm"),
    (lambda directory: weights_of(directory).unlink(), CheckpointError, "safetensors"),
    (lambda directory: (directory / "config.json").unlink(), ModelError, "config.json"),
    (lambda directory: edit_config(directory, hidden_size=-48), UnsupportedConfigError, "hidden_size"),
    (lambda directory: edit_config(directory, num_attention_heads=True), UnsupportedConfigError, "num_attention_heads"),
    (lambda directory: edit_config(directory, num_hidden_layers=10**9), UnsupportedConfigError, "num_hidden_layers"),
    (
        lambda directory: edit_config(directory, auto_map={"AutoModel": "x.Y"}, architectures=["YForCausalLM"]),
        UnsupportedConfigError,
        "auto_map",
    ),
    (lambda directory: edit_config(directory, eos_token_id=10**6), UnsupportedConfigError, "eos_token_id"),
    (lambda directory: write_json(directory, "generation_config.json", eos_token_id=[1, 10**6]), TokenizerError, "eos_token_id"),
    (lambda directory: write_json(directory, "tokenizer_config.json", surprise=1), UnsupportedConfigError, "surprise"),
    (add_a_token, TokenizerError, "<|one more|>"),
    (lambda directory: edit_config(directory, surprise=1), UnsupportedConfigError, "surprise"),
    (lambda directory: edit_config(directory, architectures=["MambaForCausalLM"]), UnknownArchitectureError, "LlamaForCausalLM"),
]


@pytest.mark.parametrize(("spoil", "error", "words"), DAMAGE)
def test_a_damaged_model_is_refused_with_the_next_step(
    tiny_model: Path, tmp_path: Path, spoil: Spoil, error: type[QuireError], words: str
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_model, directory)
    spoil(directory)
    with pytest.raises(error) as caught:
        LLM(directory, kv_memory="4MiB")
    assert words in str(caught.value)
    assert caught.value.next_step


def test_a_missing_model_is_a_file_not_found() -> None:
    with pytest.raises(ModelNotFoundError):
        LLM("/nowhere/at/all")


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, kv_memory="4MiB", max_context=128) as llm:
        yield llm


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "llm" in request.fixturenames:
        manager = request.getfixturevalue("llm").core.scheduler.manager
        manager.check()
        assert manager.pool.num_free == manager.pool.num_blocks
        assert not request.getfixturevalue("llm").core.has_work


@pytest.mark.parametrize(
    ("prompt", "params", "error"),
    [
        ([], {}, EmptyPromptError),
        ("", {}, EmptyPromptError),
        ([1] * 128, {}, PromptTooLongError),
        ([1] * 100, {"max_tokens": 29}, CapacityError),
        ([10**6], {}, RequestError),
        ([-1], {}, RequestError),
        ([1], {"logit_bias": {10**6: 1.0}}, RequestError),
        ([1], {"stop_token_ids": (10**6,)}, RequestError),
    ],
)
def test_an_impossible_request_is_refused_before_anything_runs(
    llm: LLM, prompt: list[int] | str, params: dict[str, object], error: type[QuireError]
) -> None:
    good = [1, 2, 3]
    with pytest.raises(error) as caught:
        llm.generate([good, prompt], SamplingParams(**{"max_tokens": 4} | params))
    assert caught.value.next_step


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"n": True},
        {"n": 0},
        {"max_tokens": 0},
        {"seed": 2**80},
        {"temperature": 0, "top_k": 5},
        {"temperature": 0, "n": 2},
        {"min_tokens": 9, "max_tokens": 3},
        {"stop": ("",)},
        {"logit_bias": {1: float("nan")}},
    ],
    ids=str,
)
def test_impossible_sampling_cannot_be_built(params: dict[str, object]) -> None:
    with pytest.raises(SamplingError) as caught:
        SamplingParams(**params)
    assert caught.value.next_step


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in range(1000) %}{% for j in range(1000) %}{% for k in range(1000) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception('no') }}",
        "{% if %}",
    ],
)
def test_a_hostile_template_ends_in_an_error(tiny_model: Path, tmp_path: Path, template: str) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_model, directory)
    (directory / "chat_template.jinja").write_text(template)
    with LLM(directory, kv_memory="4MiB") as llm:
        with pytest.raises(TemplateError) as caught:
            llm.chat([{"role": "user", "content": "x"}], SamplingParams(max_tokens=2))
        assert caught.value.next_step
        llm.core.scheduler.manager.check()
        assert len(llm.generate([[1, 2]], SamplingParams(temperature=0, max_tokens=2))[0].outputs[0].token_ids) == 2


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({}, "Shorten the prompt."),
        ({"max_context": 64}, "Shorten the prompt, or raise max_context."),
        ({"kv_memory": "64KiB"}, "Shorten the prompt, or raise kv_memory."),
    ],
)
def test_the_way_out_of_a_full_context_exists(tiny_model: Path, options: dict[str, object], advice: str) -> None:
    with LLM(tiny_model, executor="reference", **({"kv_memory": "4MiB"} | options)) as llm:  # type: ignore[arg-type]
        with pytest.raises(PromptTooLongError) as caught:
            llm.generate([[1] * 600])
        assert caught.value.next_step == advice


def test_a_full_context_is_that_of_the_scaling(tiny_model: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_model, directory)
    edit_config(directory, rope_parameters={"rope_type": "yarn", "factor": 2.0}, rope_scaling=None)
    with LLM(directory, executor="reference", kv_memory="4MiB") as llm:
        assert len(llm.generate([[1] * 600], SamplingParams(temperature=0, max_tokens=1))) == 1
        with pytest.raises(PromptTooLongError, match=r"limit: a context of 1024 tokens\)\. Shorten the prompt\.$"):
            llm.generate([[1] * 1100])


def test_a_failing_request_leaves_its_neighbors_untouched(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    alone = llm.generate([[1, 2, 3]], params)[0].outputs[0].token_ids
    with pytest.raises(PromptTooLongError):
        llm.generate([[1, 2, 3], [1] * 500], params)
    assert llm.generate([[1, 2, 3]], params)[0].outputs[0].token_ids == alone
