"""What a GGUF file holds beside the model: for a description, without reading weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quire.models.gguf.splits import open_gguf

_TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFacts:
    """`tensors_by_kind` counts the tensors of each number format, the most frequent first; `name` is None where none is given."""

    name: str | None
    architecture: str
    tensors_by_kind: Mapping[str, int]
    has_chat_template: bool
    num_files: int
    file_bytes: int


def read_facts(path: Path) -> GgufFacts:
    """Returns the facts of the file, or the files, of a model; raises CheckpointError."""
    gguf = open_gguf(path)
    kinds = Counter(gguf.info(name).kind.name for name in gguf.placement)
    name = gguf.metadata.get("general.name")
    return GgufFacts(
        name=name if isinstance(name, str) else None,
        architecture=str(gguf.metadata.get("general.architecture")),
        tensors_by_kind=dict(kinds.most_common()),
        has_chat_template=any(field == _TEMPLATE or field.startswith(f"{_TEMPLATE}.") for field in gguf.metadata),
        num_files=len(gguf.files),
        file_bytes=sum(len(file.content) for file in gguf.files),
    )
