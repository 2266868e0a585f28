"""`quire models`: the supported families, the local models, and the contents of one model directory or GGUF file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quire.config import KERNEL_TILE_TOKENS, ExecutorKind
from quire.models.strict_json import shorten
from quire.units import format_bytes

if TYPE_CHECKING:
    from quire.executors.packing import StoredFormats
    from quire.models.gguf.facts import GgufFacts
    from quire.models.hub import LocalModel
    from quire.models.quantized.facts import Storage
    from quire.models.spec import DenseFfn, ModelSpec

_SPEC_FIELDS = (
    "family",
    "num_layers",
    "hidden_size",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "ffn_size",
    "vocab_size",
    "max_context",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The sizes of one model; `kv_bytes_per_token` is by KV format, `file_bytes` is None without weight files.

    `gguf` is None for a model directory, and `directory` then that, else the file. `storage` says how another library quantized
    the weights of a directory, None where they are stored as they are; `held` in what formats quantized weights are in memory,
    None of any others and without weight files. `exact_key_layers` are those whose keys stay bfloat16 in quantized KV formats,
    which only weights can tell.
    """

    directory: Path
    spec: ModelSpec
    num_parameters: int
    file_bytes: int | None
    kv_bytes_per_token: dict[str, int]
    gguf: GgufFacts | None = None
    storage: Storage | None = None
    held: StoredFormats | None = None
    exact_key_layers: tuple[int, ...] = ()


@click.command()
@click.argument("model", required=False)
@click.option("-m", "--model", "named", metavar="MODEL", help="The same as the argument.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def models(model: str | None, named: str | None, as_json: bool) -> None:
    """List supported families, the bundled model and the checkpoints in the Hugging Face cache.

    With a MODEL, a directory, a GGUF file or a Hugging Face id, describe it. A config.json is enough; for an id nothing else is
    downloaded.

    \b
    Example:
      quire models
      quire models path/to/model --json
      quire models model-Q4_K_M.gguf
      quire models Qwen/Qwen3-0.6B
    """
    from quire.models.hub import CONFIG_ONLY, find_model

    if model is not None and named is not None:
        raise click.UsageError("Name one model, as an argument or with -m.")
    name = named if model is None else model
    if name is None:
        _list_all(as_json)
    else:
        _describe_one(describe(find_model(name, wanted=CONFIG_ONLY)), as_json)


def describe(directory: Path) -> Description:
    """Reads what a model directory or a GGUF file says of itself, and the sizes of weight files; raises ModelError."""
    from math import prod

    from quire.models.checkpoint import read_spec
    from quire.models.gguf.facts import read_facts
    from quire.models.gguf.splits import is_gguf
    from quire.models.quantized.facts import describe_storage

    spec = read_spec(directory)
    gguf = read_facts(directory) if is_gguf(directory) else None
    storage = describe_storage(directory) if gguf is None else None
    sizes = [file.stat().st_size for file in directory.glob("*.safetensors")] if gguf is None else [gguf.file_bytes]
    exact = _exact_key_layers(directory) if spec.has_qkv_bias and (sizes or gguf is not None) else ()
    return Description(
        directory=directory,
        spec=spec,
        num_parameters=sum(prod(shape) for shape in spec.tensor_shapes().values()),
        file_bytes=sum(sizes) if sizes else None,
        kv_bytes_per_token=_kv_bytes_per_token(spec, exact),
        gguf=gguf,
        storage=storage,
        held=_held(directory) if gguf is not None or (storage is not None and sizes) else None,
        exact_key_layers=exact,
    )


def _kv_bytes_per_token(spec: ModelSpec, exact: tuple[int, ...]) -> dict[str, int]:
    """Returns the bytes of a token by KV format; a format that cannot hold such heads is left out."""
    from quire.executors.kv_shape import kv_formats_of, kv_layout

    formats = kv_formats_of(spec, ExecutorKind.NATIVE)
    layouts = [kv_layout(spec, KERNEL_TILE_TOKENS, each, exact if each.is_quantized else ()) for each in formats]
    return {layout.format.value: layout.bytes_per_token for layout in layouts}


def _exact_key_layers(directory: Path) -> tuple[int, ...]:
    from quire.executors.key_bias import exact_key_layers
    from quire.models.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(directory)
    return exact_key_layers(checkpoint.spec, checkpoint.weights)


def _held(directory: Path) -> StoredFormats | None:
    """Returns the formats in which a quantized checkpoint's weights are held, None of any other."""
    from quire.executors.packing import describe_stored
    from quire.models.checkpoint import load_checkpoint
    from quire.models.weights import SourceDType

    checkpoint = load_checkpoint(directory)
    if checkpoint.weights.dtype is not SourceDType.QUANTIZED:
        return None
    return describe_stored(checkpoint.spec, checkpoint.weights)


# -- everything --------------------------------------------------------------------


def _list_all(as_json: bool) -> None:
    from quire.cli.display import listing, out_console, print_json
    from quire.models.families import FAMILIES
    from quire.models.hub import local_models

    found, bundled = local_models(), _bundled()
    if as_json:
        print_json(
            {
                "families": [{"name": family.name, "architectures": list(family.architectures)} for family in FAMILIES],
                "bundled": None if bundled is None else _description_json(bundled),
                "local": [_local_json(model) for model in found],
            }
        )
        return
    console = out_console()
    rows = [(family.name, ", ".join(family.architectures)) for family in FAMILIES]
    console.print(listing("Supported families", ("family", "architectures in config.json"), rows))
    console.print(listing("Local models", ("model", "size>", "directory"), [*_bundled_rows(bundled), *map(_local_row, found)]))
    if not found:
        console.print("The Hugging Face cache holds no model that Quire can run.", style="dim")


def _bundled() -> Description | None:
    from quire.errors import ModelNotFoundError
    from quire.models.bundled import directory

    try:
        return describe(directory())
    except ModelNotFoundError:
        return None


def _bundled_rows(bundled: Description | None) -> list[tuple[str, str, str]]:
    if bundled is None:
        return []
    return [("bundled (the default)", format_bytes(bundled.file_bytes or 0), str(bundled.directory))]


def _local_row(model: LocalModel) -> tuple[str, str, str]:
    return model.name, format_bytes(model.size_bytes), str(model.directory)


def _local_json(model: LocalModel) -> dict[str, Any]:
    return {"name": model.name, "directory": str(model.directory), "size_bytes": model.size_bytes}


# -- one model ---------------------------------------------------------------------


def _describe_one(found: Description, as_json: bool) -> None:
    from quire.cli.display import facts, listing, out_console, print_json

    if as_json:
        print_json(_description_json(found))
        return
    console = out_console()
    console.print(facts(str(found.directory), _spec_rows(found)), "")
    rows = [
        (name, format_bytes(per_token), format_bytes(per_token * found.spec.max_context))
        for name, per_token in found.kv_bytes_per_token.items()
    ]
    console.print(listing("KV cache", ("format", "per token>", f"per context of {found.spec.max_context}>"), rows))


def _spec_rows(found: Description) -> dict[str, str]:
    spec = found.spec
    windows = sorted({layer.sliding_window for layer in spec.layers if layer.sliding_window is not None})
    num_windowed = sum(layer.sliding_window is not None for layer in spec.layers)
    rows = {
        "family": spec.family,
        "parameters": f"{found.num_parameters:,}",
        "weight files": "none here" if found.file_bytes is None else format_bytes(found.file_bytes),
        "layers": str(spec.num_layers),
        "hidden size": str(spec.hidden_size),
        "heads": f"{spec.num_heads} query, {spec.num_kv_heads} kv, {spec.head_dim} wide",
        "ffn size": ", ".join(dict.fromkeys(_ffn_text(layer.ffn) for layer in spec.layers)),
        "vocabulary": f"{spec.vocab_size}{', head tied to the embedding' if spec.is_head_tied else ''}",
        "context": f"{spec.max_context} tokens",
        "positions": "learned" if spec.has_learned_positions else "rotary",
    }
    if found.gguf is not None:
        rows |= _gguf_rows(found.gguf)
    if found.storage is not None:
        bits = found.storage.bits_per_weight
        rows["stored as"] = found.storage.description + ("" if bits is None else f"; {bits:.2f} bits per quantized weight")
    if found.exact_key_layers:
        layers = ", ".join(map(str, found.exact_key_layers))
        rows["key biases"] = f"large in layers {layers}: their keys stay bfloat16 in quantized KV formats"
    if found.held is not None:
        rows["in memory"] = _held_text(found.held)
    if windows:
        rows["sliding window"] = f"{', '.join(map(str, windows))} tokens in {num_windowed} of {spec.num_layers} layers"
    return rows


def _held_text(held: StoredFormats) -> str:
    total = sum(held.num_weights.values())
    parts = "; ".join(f"{count / total:.0%} {words}" for words, count in held.num_weights.items())
    return f"{held.bits_per_weight:.2f} bits per weight: {parts}"


def _ffn_text(ffn: DenseFfn) -> str:
    return f"{ffn.size} ({ffn.kind.value}, {ffn.activation.value})"


def _gguf_rows(gguf: GgufFacts) -> dict[str, str]:
    files = "" if gguf.num_files == 1 else f", in {gguf.num_files} files"
    return {
        "GGUF": f"architecture {gguf.architecture}{files}" + ("" if gguf.name is None else f", {shorten(gguf.name)!r}"),
        "tensors": ", ".join(f"{count} {kind}" for kind, count in gguf.tensors_by_kind.items()),
        "chat template": "yes" if gguf.has_chat_template else "no",
    }


def _description_json(found: Description) -> dict[str, Any]:
    spec = found.spec
    return {
        "directory": str(found.directory),
        **{name: getattr(spec, name) for name in _SPEC_FIELDS},
        "num_parameters": found.num_parameters,
        "file_bytes": found.file_bytes,
        "kv_bytes_per_token": found.kv_bytes_per_token,
        "exact_key_layers": list(found.exact_key_layers),
        "gguf": None if found.gguf is None else asdict(found.gguf),
        "quantization": None if found.storage is None else found.storage.description,
        "bits_per_quantized_weight": None if found.storage is None else found.storage.bits_per_weight,
        "in_memory": None if found.held is None else asdict(found.held),
    }
