"""Damaged GGUF files: a small correct model with bytes, lengths, types or tables changed, one seed after the other."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from quire.models.checkpoint import load_checkpoint
from quire.text.tokenizer import Tokenizer
from support.configs import CONFIGS
from support.gguf_models import converted, metadata_of
from support.gguf_writer import Stored, Typed, gguf_bytes, stored
from support.hostile import EXTREMES, damaged, outcome_of
from support.stored import stored_tensors

_CONFIG = CONFIGS["llama"] | {"num_hidden_layers": 1, "vocab_size": 40}


def small_model() -> tuple[dict[str, Any], dict[str, Stored]]:
    """Returns metadata with values of every type and a tokenizer, and the tensors of a llama of one layer."""
    tokens = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(97, 97 + 26)), *(f"<0x{code:02X}>" for code in range(11))]
    metadata = metadata_of("llama", _CONFIG) | {
        "general.tags": ["a", "bc", ""],
        "general.nested": [Typed(9, [1, 2]), Typed(9, [3]), Typed(9, [])],
        "general.wide": Typed(12, 0.5),
        "general.far": Typed(10, 2**40),
        "general.low": Typed(11, -5),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [float(-index) for index in range(len(tokens))],
        "tokenizer.ggml.token_type": [Typed(5, token_type) for token_type in (2, 3, 3, *[1] * 26, *[6] * 11)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    }
    tensors = {
        name: np.resize(values, (40, 56)) if len(values) == CONFIGS["llama"]["vocab_size"] else values
        for name, values in stored_tensors("llama").items()
        if "layers.0." in name or "layers" not in name
    }
    return metadata, converted("llama", _CONFIG, tensors) | {"rope_freqs.weight": stored(np.ones(2))}


def header_bytes(content: bytes, tensors: dict[str, Stored]) -> int:
    """Returns where the tensors begin."""
    return len(content) - sum(len(tensor.content) + -len(tensor.content) % 32 for tensor in tensors.values())


def rewritten(metadata: dict[str, Any], tensors: dict[str, Stored], seed: int) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Returns the model with one field of another value or type, or one tensor of another kind, shape or place."""
    rng = random.Random(seed)
    if rng.random() < 0.6:
        name = rng.choice([*metadata, "general.alignment", "split.count", "split.no", "split.tensors.count"])
        return metadata | {name: _odd_value(rng)}, tensors
    name = rng.choice(list(tensors))
    tensor = tensors[name]
    match rng.randrange(4):
        case 0:
            changed = replace(tensor, kind=rng.choice((*range(45), 2**32 - 1)))
        case 1:
            changed = replace(tensor, shape=tuple(rng.choice((1, 7, 56, 256, *EXTREMES)) for _ in range(rng.randrange(6))))
        case 2:
            changed = replace(tensor, offset=rng.choice((0, 32, 33, 4096, *EXTREMES)))
        case _:
            changed = replace(tensor, content=tensor.content[: rng.randrange(len(tensor.content))])
    return metadata, tensors | {name: changed}


def _odd_value(rng: random.Random) -> Typed:
    numbers = {0: 8, 1: 7, 2: 16, 3: 15, 4: 32, 5: 31, 10: 64, 11: 63}
    value_type = rng.choice((*numbers, 6, 7, 8, 9, 12))
    if value_type in numbers:
        return Typed(value_type, rng.choice(EXTREMES) % 2 ** numbers[value_type])
    if value_type in (6, 12):
        return Typed(value_type, rng.choice((0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"))))
    if value_type == 9:
        return Typed(9, [rng.choice((1, 5)) for _ in range(rng.randrange(60))])
    return Typed(
        value_type, rng.choice((0, 1)) if value_type == 7 else rng.choice(("", "gpt2", "yarn", "llama", "qwen2", "x" * 500))
    )


def outcome(path: Path) -> str:
    """Opens a file as a user would, and returns what came of it, as `outcome_of` does."""

    def read_all() -> None:
        for tensor in load_checkpoint(path).weights.values():
            tensor.to_float32()
        Tokenizer.from_model(path).encode("abc")

    return outcome_of(read_all, names=(path.name,), max_bytes=8 * path.stat().st_size)


def swollen(metadata: dict[str, Any], tensors: dict[str, Stored], seed: int) -> bytes:
    """Returns the file with one part of it too long or too often there: a token, a list, a table of tensors, a name."""
    rng = random.Random(seed)
    match rng.randrange(6):
        case 0:
            tokens = list(metadata["tokenizer.ggml.tokens"])
            tokens[rng.randrange(len(tokens))] = rng.choice(("a", "ab", "\u00e9")) * rng.choice((4096, 4097, 100_000))
            return gguf_bytes(metadata | {"tokenizer.ggml.tokens": tokens}, tensors)
        case 1:
            name = f"tokenizer.ggml.{rng.choice(('tokens', 'scores', 'token_type'))}"
            return gguf_bytes(metadata | {name: metadata[name] * rng.choice((2, 1000))}, tensors)
        case 2:
            merges = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["a b"] * 20_000}
            return gguf_bytes(metadata | merges, tensors)
        case 3:
            content = gguf_bytes(metadata, tensors)
            return content[:8] + struct.pack("<Q", rng.choice((len(tensors) + 1, 65_536, 65_537))) + content[16:] + bytes(4 << 20)
        case 4:
            first, second = rng.sample(list(tensors), 2)
            return gguf_bytes(metadata, tensors).replace(_name_bytes(first), _name_bytes(second))
        case _:
            row = Stored(kind=0, shape=(8,), content=bytes(32), offset=rng.choice((None, 0)))
            return gguf_bytes(metadata, tensors | {f"t{index}": row for index in range(rng.choice((100, 2000)))})


def _name_bytes(name: str) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode()


def write_mutation(directory: Path, seed: int) -> Path:
    """Writes the mutation of a seed; returns the file's path."""
    metadata, tensors = small_model()
    path, content = directory / f"{seed}.gguf", gguf_bytes(metadata, tensors)
    if seed % 10 == 0:
        content = swollen(metadata, tensors, seed)
    elif seed % 2:
        content = gguf_bytes(*rewritten(metadata, tensors, seed))
    else:
        content = damaged(content, 4, header_bytes(content, tensors), random.Random(seed))
    path.write_bytes(content)
    return path
