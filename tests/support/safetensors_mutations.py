"""Damaged model directories: a small correct one, plain or quantized, whose header, index, config or bytes a seed changes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quire.models.checkpoint import load_checkpoint
from quire.models.quantized.facts import describe_storage
from support.hostile import EXTREMES, damaged, outcome_of
from support.odd_json import json_bytes, mutate_json, odd_value
from support.quantized import Arrays
from support.quantized_checkpoint import config_of, packed_tensors
from support.quantized_methods import BY_NAME
from support.safetensors_writer import assemble, header_of

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
METHODS = (
    *("gptq-4", "gptq-3", "gptq-sorted", "auto-round-awq", "awq", "w4a16-zeros", "w8a16", "int-quantized", "float-quantized"),
    *("fp8-blocks", "fp8-tensor", "mxfp4-pack-quantized", "quark", "mlx-3"),
)
_DTYPES = (
    "F32",
    "F16",
    "BF16",
    "F64",
    "I64",
    "I32",
    "U32",
    "I8",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "C64",
    "x",
)
_NAMES = (SINGLE, INDEX, "config.json", ".safetensors", "model.", "lm_head")
"""What an error may name: a file, or a tensor by the beginning of its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """A directory of one weight file: its config.json, its header, and the bytes of its tensors."""

    config: dict[str, Any]
    header: dict[str, Any]
    content: bytes


def small_model(name: str | None) -> Files:
    """Returns a correct llama of two layers, quantized by the method of that name; None: not quantized."""
    if name is None:
        return _files(config_of(), packed_tensors(BY_NAME[METHODS[0]])[1])
    method = BY_NAME[name]
    return _files(config_of(**{method.section: method.config, **method.others}), packed_tensors(method)[0])


def _files(config: dict[str, Any], tensors: Arrays) -> Files:
    content = b"".join(tensor.tobytes() for tensor in tensors.values())
    return Files(config=copy.deepcopy(config), header=header_of(tensors), content=content)


def write_mutation(directory: Path, seed: int) -> Path:
    """Writes the mutation of a seed into a new directory below `directory`; returns its path."""
    rng = random.Random(seed)
    path = directory / f"model-{seed}"
    path.mkdir(parents=True)
    model = small_model(rng.choice(METHODS) if rng.randrange(3) else None)
    _MUTATIONS[seed % len(_MUTATIONS)](path, model, rng)
    return path


def outcome(directory: Path) -> str:
    """Opens a directory as a user would, and returns what came of it, as `outcome_of` does."""

    def read_all() -> None:
        weights = load_checkpoint(directory).weights
        for tensor in weights.values():
            tensor.to_float32()
        weights.identify()
        describe_storage(directory)

    num_bytes = sum(path.stat().st_size for path in directory.iterdir() if path.exists())
    return outcome_of(read_all, names=_NAMES, max_bytes=32 * num_bytes)


# -- mutations -----------------------------------------------------------------------


def _change_rows(directory: Path, files: Files, rng: random.Random) -> None:
    """Tensors of other formats, shapes, places and names: overlapping, beyond the file, cut off by their format."""
    header = files.header
    for _ in range(rng.choice((1, 1, 2, 3))):
        name = rng.choice([name for name in header if isinstance(header[name], dict)])
        row = header[name]
        match rng.randrange(7):
            case 0:
                row["dtype"] = rng.choice(_DTYPES)
            case 1:
                row["shape"] = rng.choice(
                    (row["shape"][::-1], [*row["shape"], 1], [0, *row["shape"]], [], [1] * rng.randrange(12))
                )
            case 2:
                row["shape"] = [rng.choice((*EXTREMES, 7, 64, -1)) for _ in range(rng.randrange(4))]
            case 3:
                row["data_offsets"] = [rng.choice((*EXTREMES, *row["data_offsets"], len(files.content), -8)) for _ in range(2)]
            case 4:
                row["data_offsets"] = [place + rng.choice((-64, -1, 1, 8, 64)) for place in row["data_offsets"]]
            case 5:
                other = rng.choice(list(header))
                header[name], header[other] = header[other], row
            case _:
                renamed = (name + "x", name.replace("0", "1"), name.rpartition(".")[0] + ".weight", "", "x" * 10_000, "a\n\x00b")
                header[rng.choice(renamed)] = header.pop(name)
    write_files(directory, files)


def _change_header(directory: Path, files: Files, rng: random.Random) -> None:
    """Values of any type anywhere in the header; its text too long, too deep, doubled or no JSON."""
    mutate_json(files.header, rng)
    if rng.random() < 0.2:
        files.header["__metadata__"] = odd_value(rng)
    write_files(directory, files, header=json_bytes(files.header, rng))


def _change_bytes(directory: Path, files: Files, rng: random.Random) -> None:
    """Bytes of the length and the header, or of the tensors."""
    text = json.dumps(files.header).encode()
    content = assemble(text, files.content)
    start = len(text) + 8
    places = (0, start) if rng.random() < 0.7 else (start, len(content))
    write_files(directory, files, whole=damaged(content, *places, rng))


def _change_length(directory: Path, files: Files, rng: random.Random) -> None:
    """A header that is announced to be as long as a number of 64 bits can say, or a file that ends anywhere."""
    content = assemble(files.header, files.content)
    if rng.random() < 0.5:
        length = rng.choice((*EXTREMES, len(content) - 8, len(content) - 7, len(content), 100_000_001))
        write_files(directory, files, whole=length.to_bytes(8, "little") + content[8:])
    else:
        write_files(directory, files, whole=content[: rng.choice((rng.randrange(16), rng.randrange(len(content))))])


def _change_config(directory: Path, files: Files, rng: random.Random) -> None:
    """Values of any type anywhere in config.json; its text too long, too deep, doubled or no JSON."""
    for _ in range(rng.choice((1, 1, 2))):
        mutate_json(files.config, rng)
    write_files(directory, files, config=json_bytes(files.config, rng))


def _change_quantization(directory: Path, files: Files, rng: random.Random) -> None:
    """A `quantization_config` with other values, bits and groups, and patterns that would take for ever to match."""
    sections = [value for name, value in files.config.items() if "quantization" in name and isinstance(value, dict)]
    section = sections[0] if sections else files.config.setdefault("quantization_config", copy.deepcopy(BY_NAME["w4a16"].config))
    for _ in range(rng.choice((1, 2, 3))):
        if rng.random() < 0.3:
            names = ("ignore", "modules_to_not_convert", "dynamic", "extra_config", "exclude", "targets")
            patterns = [rng.choice(_PATTERNS) for _ in range(rng.choice((1, 3, 300)))]
            section[rng.choice(names)] = rng.choice((patterns, {pattern: {"bits": 4} for pattern in patterns}))
        else:
            mutate_json(section, rng)
    write_files(directory, files, config=json_bytes(files.config, rng))


def _change_index(directory: Path, files: Files, rng: random.Random) -> None:
    """Several files and an index that contradicts them, or names itself, a link in a circle, or a place elsewhere."""
    names = [f"model-{number}-of-3.safetensors" for number in (1, 2, 3)]
    weight_map = {tensor: names[place % 3] for place, tensor in enumerate(files.header)}
    for name in names:
        held = [tensor for tensor in files.header if weight_map[tensor] == name]
        content, rows = b"", {}
        for tensor in held:
            start, stop = files.header[tensor]["data_offsets"]
            rows[tensor] = files.header[tensor] | {"data_offsets": [len(content), len(content) + stop - start]}
            content += files.content[start:stop]
        (directory / name).write_bytes(assemble(rows, content))
    index: dict[str, Any] = {"metadata": {"total_size": rng.choice(EXTREMES)}, "weight_map": weight_map}
    other = rng.choice((*names, INDEX, SINGLE, "../" + names[0], "/" + names[0], "x" * 300 + ".safetensors", ".safetensors", "a"))
    match rng.randrange(5):
        case 0:
            weight_map[rng.choice(list(weight_map))] = other
        case 1:
            first, second = (directory / name for name in rng.sample(names, 2))
            first.unlink()
            first.symlink_to(rng.choice((first, second, directory)))
            if rng.random() < 0.5:
                second.unlink()
                second.symlink_to(first)
        case 2:
            weight_map |= {f"model.{number}": rng.choice(names) for number in range(rng.choice((1, 20_000)))}
        case 3:
            index["weight_map"] = dict(zip(weight_map, rng.sample(list(weight_map.values()), len(weight_map)), strict=True))
        case _:
            mutate_json(index, rng)
    (directory / "config.json").write_text(json.dumps(files.config))
    (directory / INDEX).write_bytes(json_bytes(index, rng))


def _swell(directory: Path, files: Files, rng: random.Random) -> None:
    """One part too long or too often there: empty tensors, a name, metadata, modules with patterns that want to match them."""
    stop, header, config = len(files.content), files.header, files.config
    match rng.randrange(4):
        case 0:
            empty = {"dtype": "F32", "shape": [0], "data_offsets": [stop, stop]}
            header |= {f"model.t{number}": empty for number in range(rng.choice((100, 5000)))}
        case 1:
            header |= {"x" * rng.choice((10_000, 1_000_000)): {"dtype": "F32", "shape": [0], "data_offsets": [stop, stop]}}
        case 2:
            header["__metadata__"] = {f"k{number}": "v" * 100 for number in range(rng.choice((100, 10_000)))}
        case _:
            config["quantization_config"] = copy.deepcopy(BY_NAME["w4a16"].config) | {
                "ignore": [*_SLOW] * rng.choice((1, 20, 500))
            }
            files = _files(config, _many_modules(60))
    write_files(directory, files)


def _many_modules(count: int) -> Arrays:
    """Returns weights of one row of 32, packed as compressed-tensors does, under long names."""
    tensors: Arrays = {}
    for number in range(count):
        module = f"model.layers.{number}.{'a' * 200}"
        tensors[f"{module}.weight_packed"] = np.zeros((1, 4), np.int32)
        tensors[f"{module}.weight_shape"] = np.array([1, 32], np.int64)
        tensors[f"{module}.weight_scale"] = np.ones((1, 1), np.float16)
    return tensors


def write_files(
    directory: Path, files: Files, *, config: bytes | None = None, header: bytes | None = None, whole: bytes | None = None
) -> None:
    """Writes a directory of one weight file; what is given as bytes takes the place of what the files say."""
    content = assemble(files.header if header is None else header, files.content) if whole is None else whole
    (directory / "config.json").write_bytes(json.dumps(files.config).encode() if config is None else config)
    (directory / SINGLE).write_bytes(content)


_SLOW = ("re:(a+)+$", "re:(.*)*x", "re:(a|a)*b", "re:" + ".*" * 300 + "x", "re:" + "a?" * 100 + "a" * 100, "re:.*a.*b.*c")
_PATTERNS = (
    *(*_SLOW, "re:" + "(" * 400, "re:["),
    *("re:.*up_proj", "+:.*", "-:.*\\.1\\..*", "model.layers.0", "Linear", "", "re:", "re:(?=a)", "re:\\1", "re:a{1,99999}"),
)
_MUTATIONS: tuple[Callable[[Path, Files, random.Random], None], ...] = (
    *(_change_rows, _change_header, _change_bytes, _change_config, _change_quantization),
    *(_change_rows, _change_length, _change_index, _change_quantization, _swell),
)
