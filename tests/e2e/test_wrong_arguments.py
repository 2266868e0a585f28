"""Every argument of every public function, given what it cannot be: a typed error that says what was given and what to do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quire
from quire import LLM, SamplingParams
from quire.config import CacheConfig, EngineConfig, SchedulerConfig
from quire.engine.options import EngineOptions, ModelOptions
from quire.errors import NotCopyableError, QuireError
from quire.executors.native import available_isas
from quire.request import RequestOutput
from quire.text.conversation import Conversation

WRONG: dict[str, Callable[[], object]] = {
    "None": lambda: None,
    "5": lambda: 5,
    "-1": lambda: -1,
    "1.5": lambda: 1.5,
    "True": lambda: True,
    "text": lambda: "x",
    "bytes": lambda: b"x",
    "list": list,
    "dictionary": dict,
    "array": lambda: np.array(1),
    "array of texts": lambda: np.array([["a"]]),
    "object": object,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "huge": lambda: 10**5000,
    "surrogate": lambda: "\ud800",
    "generator": lambda: (i for i in [1]),
    "set": lambda: {1},
    "function": lambda: len,
    "type": lambda: int,
}
FEW = SamplingParams(max_tokens=1)
MESSAGES = [{"role": "user", "content": "x"}]
OPTIONS = {"executor": "reference", "kv_memory": "1MiB"}


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What the calls below are made on."""

    directory: Path
    llm: LLM
    model: Any


@pytest.fixture(scope="module")
def world(tiny_model: Path) -> Iterator[World]:
    with LLM(tiny_model, **OPTIONS) as llm:  # type: ignore[arg-type]
        yield World(tiny_model, llm, quire.load_model(tiny_model, **OPTIONS))  # type: ignore[arg-type]


def _open(world: World, **options: Any) -> None:
    LLM(world.directory, **OPTIONS | options).close()  # type: ignore[arg-type]


def _load(world: World, **options: Any) -> None:
    quire.load_model(world.directory, **OPTIONS | options)  # type: ignore[arg-type]


def _conversation(world: World) -> Conversation:
    conversation = world.llm.conversation()
    conversation.add_user("x")
    return conversation


Call = Callable[[World, Any], object]
CALLS: dict[str, tuple[Call, str]] = {
    "LLM model": (lambda _world, value: LLM(value, **OPTIONS).close(), "None"),  # type: ignore[arg-type]
    "load_model path": (lambda _world, value: quire.load_model(value, **OPTIONS), "None"),  # type: ignore[arg-type]
    "generate prompts": (lambda world, value: world.llm.generate(value, FEW), "list text"),
    "generate prompt in a list": (lambda world, value: world.llm.generate([value], FEW), "text 5"),
    "generate token ids": (lambda world, value: world.llm.generate({"prompt_token_ids": value}, FEW), ""),
    "generate prompt": (lambda world, value: world.llm.generate({"prompt": value}, FEW), "text"),
    "generate cache_salt": (lambda world, value: world.llm.generate({"prompt": "x", "cache_salt": value}, FEW), "None text"),
    "generate sampling_params": (lambda world, value: world.llm.generate("x", value), "None"),
    "generate priority": (lambda world, value: world.llm.generate("x", FEW, priority=value), "5 -1 huge"),
    "generate use_tqdm": (lambda world, value: world.llm.generate("x", FEW, use_tqdm=value), "True"),
    "chat messages": (lambda world, value: world.llm.chat(value, FEW), "list"),
    "chat sampling_params": (lambda world, value: world.llm.chat(MESSAGES, value), "None"),
    "chat priority": (lambda world, value: world.llm.chat(MESSAGES, FEW, priority=value), "5 -1 huge"),
    "chat use_tqdm": (lambda world, value: world.llm.chat(MESSAGES, FEW, use_tqdm=value), "True"),
    "chat tools": (lambda world, value: world.llm.chat(MESSAGES, FEW, tools=value), "None list"),
    "chat variables": (lambda world, value: world.llm.chat(MESSAGES, FEW, variables=value), "None dictionary"),
    "conversation variables": (lambda world, value: world.llm.conversation(variables=value), "None dictionary"),
    "conversation system": (lambda world, value: world.llm.conversation().add_system(value), "text"),
    "conversation user": (lambda world, value: world.llm.conversation().add_user(value), "text"),
    "conversation assistant": (lambda world, value: _conversation(world).add_assistant(value), "list"),
    "stream prompt": (lambda world, value: list(world.llm.stream(value, FEW)), "text"),
    "stream sampling_params": (lambda world, value: next(world.llm.stream("x", value)), "None"),
    "stream priority": (lambda world, value: list(world.llm.stream("x", FEW, priority=value)), "5 -1 huge"),
    "score prompt": (lambda world, value: world.llm.score(value), "text"),
    "score given": (lambda world, value: world.llm.score("x", given=value), "None text"),
    "score num_candidates": (lambda world, value: world.llm.score("x", num_candidates=value), "5"),
    "explain": (lambda world, value: world.llm.explain(value), ""),
    "model input_ids": (lambda world, value: world.model(value), ""),
    "model token": (lambda world, value: world.model([[value]]), "5 array"),
    "model past_kvs": (lambda world, value: world.model([[1]], value), "None"),
    "model use_cache": (lambda world, value: world.model([[1]], None, value), "True"),
}
_COUNTS, _PENALTIES, _LISTS = "None 5", "-1 1.5", "None list"
ACCEPTED = {
    "temperature": "5 1.5",
    "presence_penalty": _PENALTIES,
    "frequency_penalty": _PENALTIES,
    "repetition_penalty": "5 1.5",
    "n": "5",
    "top_k": "5 -1",
    "min_tokens": "5",
    **dict.fromkeys(("seed", "max_tokens", "logprobs", "prompt_logprobs"), _COUNTS),
    **dict.fromkeys(("max_num_seqs", "max_context", "threads", "max_num_batched_tokens"), _COUNTS),
    **dict.fromkeys(("stop", "bad_words"), f"{_LISTS} text"),
    "stop_token_ids": f"{_LISTS} set",
    "allowed_token_ids": "None set",
    "logit_bias": "None dictionary",
    **dict.fromkeys(("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"), "True"),
    "packed_cache": "None text",
    "itl_target": "None 5 1.5",
    "on_progress": "None function type",
}
CALLS |= {
    f"SamplingParams {field.name}": (
        lambda _world, value, name=field.name: SamplingParams(**{name: value}),
        ACCEPTED.get(field.name, ""),
    )  # type: ignore[misc]
    for field in dataclasses.fields(SamplingParams)
}
CALLS |= {
    f"LLM {name}": (lambda world, value, name=name: _open(world, **{name: value}), ACCEPTED.get(name, "None"))  # type: ignore[misc]
    for name in (*ModelOptions.__annotations__, *EngineOptions.__annotations__)
}
CALLS |= {
    f"load_model {name}": (lambda world, value, name=name: _load(world, **{name: value}), ACCEPTED.get(name, "None"))  # type: ignore[misc]
    for name in (*ModelOptions.__annotations__, "executor", "dtype")
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUIRE_OFFLINE", "1")  # "x" could be the name of a model
    monkeypatch.chdir(tmp_path)  # or of a directory


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_that_cannot_be_is_a_typed_error(world: World, name: str) -> None:
    call, accepted = CALLS[name]
    for what, make in WRONG.items():
        if what in accepted.split():
            call(world, make())
            continue
        with pytest.raises(QuireError) as caught:
            call(world, make())
        text = str(caught.value)
        assert caught.value.given is not None, text
        assert len(caught.value.next_step) > 10, text
        assert text.endswith("."), text
        assert "(given: " in text, text
        assert len(text.encode()) < 700, text
    world.llm.core.scheduler.manager.check()
    assert not world.llm.core.has_work


CONFIGS = {
    "memory_bytes": "None 5",
    "format": "None",
    "packed_cache": "None",
    **dict.fromkeys(("max_num_batched_tokens", "max_num_seqs", "max_queued_requests"), "5"),
    **dict.fromkeys(("dtype", "executor", "weight_format"), "None"),
    **dict.fromkeys(("max_context", "threads"), "None 5"),
    "itl_target_s": "None 5 1.5",
}


@pytest.mark.parametrize("kind", [CacheConfig, SchedulerConfig, EngineConfig])
@pytest.mark.parametrize("what", WRONG)
def test_a_configuration_of_wrong_values_is_a_typed_error(kind: type[Any], what: str) -> None:
    for field in dataclasses.fields(kind):
        if what in CONFIGS.get(field.name, "").split():
            kind(**{field.name: WRONG[what]()})
        else:
            with pytest.raises(QuireError, match=field.name) as caught:
                kind(**{field.name: WRONG[what]()})
            assert caught.value.given is not None


def test_numpy_integers_are_taken_wherever_pythons_are(world: World) -> None:
    one, two = np.int64(1), np.int32(2)
    (plain,) = world.llm.generate([1, 2], SamplingParams(temperature=0, max_tokens=2, seed=3), priority=1)
    params = SamplingParams(temperature=np.int64(0), max_tokens=two, seed=np.uint64(3))  # type: ignore[arg-type]
    assert world.llm.generate([one, two], params, priority=one)[0].outputs == plain.outputs
    assert len(world.llm.generate(["x", "y"], FEW, priority=np.array([1, 2]))) == 2
    assert len(world.llm.score([one, two], num_candidates=two).token_ids) == 2
    options = {name: np.int64(64) for name in ("max_context", "max_num_seqs", "block_size", "max_num_batched_tokens")}
    with LLM(world.directory, executor="reference", kv_memory=np.int64(2**20), threads=np.uint8(1), **options) as opened:  # type: ignore[arg-type]
        assert (opened.config.max_context, opened.config.threads) == (64, 1)
        assert type(opened.config.cache.memory_bytes) is int
    conversation = _conversation(world)
    conversation.add_assistant(np.array([3, 4]))
    assert conversation.messages[-1]["role"] == "assistant"


@pytest.mark.parametrize("refuse", [pickle.dumps, copy.copy, copy.deepcopy])
def test_what_owns_memory_is_neither_copied_nor_pickled(world: World, refuse: Callable[[object], object]) -> None:
    _, past_kvs = world.model([[1, 2]])
    for owner in (world.llm, world.model, past_kvs):
        with pytest.raises(NotCopyableError, match="neither copied nor pickled") as caught:
            refuse(owner)
        assert isinstance(caught.value, TypeError)


def test_outputs_and_errors_can_be_pickled(world: World) -> None:
    output = world.llm.generate("x", FEW)[0]
    twin = pickle.loads(pickle.dumps(output))  # noqa: S301 - written one call earlier
    assert isinstance(twin, RequestOutput)
    assert twin == output


@pytest.mark.skipif(not available_isas(), reason="only the native executor reports progress")
def test_a_failing_progress_function_is_not_blamed_on_the_engine(world: World) -> None:
    def fail(_done: int, _total: int) -> None:
        raise KeyError("my own mistake")

    with pytest.raises(QuireError, match=r"on_progress failed.*my own mistake"):
        LLM(world.directory, kv_memory="1MiB", on_progress=fail)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"max_model_len": 100}, "Quire calls it max_context"),
        ({"n_ctx": 100}, "Quire calls it max_context"),
        ({"gpu_memory_utilization": 0.9}, "kv_memory"),
        ({"tensor_parallel_size": 2}, "no counterpart"),
        ({"trust_remote_code": True}, "no code from a model directory"),
        ({"enable_prefix_caching": True}, "Quire calls it prefix_cache; prefix_cache is on or off"),
        ({"kv_cache_dtype": "fp8"}, "kv_format"),
        ({"quantization": "awq"}, "quantize"),
        ({"n_threads": 2}, "Quire calls it threads"),
        ({"n_gpu_layers": 2}, "no counterpart"),
        ({"use_tqdm": True}, "use_tqdm of generate"),
        ({"temperature": 0.5}, "Use temperature of SamplingParams"),
        ({"max_new_tokens": 5}, "Use max_tokens of SamplingParams"),
        ({"seed": 1}, "Use seed of SamplingParams"),
        ({"tokenizer": "x"}, "no counterpart"),
        ({"max_contxt": 5}, "Did you mean max_context?"),
        ({"dtype": "half"}, "Write float32, which holds every float16 weight exactly"),
        ({"dtype": "torch.bfloat16"}, "Write bfloat16."),
        ({"quantize": "8bit"}, "Write int8."),
    ],
    ids=str,
)
def test_the_names_of_other_engines_are_answered_with_ours(world: World, options: dict[str, Any], advice: str) -> None:
    with pytest.raises(QuireError) as caught:
        _open(world, **options)
    assert advice in caught.value.next_step
    assert next(iter(options)) in str(caught.value)


def test_progress_is_drawn_when_asked_for_and_only_then(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.llm.generate(["x", "y"], FEW)
    assert capsys.readouterr().err == ""
    world.llm.generate(["x", "y"], FEW, use_tqdm=True)
    assert "2/2" in capsys.readouterr().err
    world.llm.chat(MESSAGES, FEW, use_tqdm=True)
    shown = capsys.readouterr()
    assert "1/1" in shown.err
    assert shown.out == ""
