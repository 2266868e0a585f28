"""Turns the name of a model into a path: a directory or a GGUF file as it is, or a Hugging Face id through the hub's local cache.

Only data is fetched: safetensors, JSON, chat templates and vocabularies; never code, pickles or other frameworks' weights.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from quire.environment import read_environment
from quire.errors import CheckpointError, ModelNotFoundError, QuireError
from quire.models.gguf.container import SUFFIX
from quire.models.gguf.splits import first_files
from quire.models.shards import has_weights
from quire.values import shown

WANTED_FILES = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt")
CONFIG_ONLY = ("config.json",)
UNWANTED_FILES = ("*/*.safetensors", "*/*.json", "*/*/*", "consolidated*", "adapter_*")
"""Other formats' folders, a second copy of the weights, adapters; further chat templates lie in a folder of their own."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB_ID = re.compile(rf"(?P<repo>{_PART}(?:/{_PART})?)(?:@(?P<revision>[A-Za-z0-9_][A-Za-z0-9_./-]{{0,120}}))?")


class HubAccess(Enum):
    """Whether a hub id may be downloaded, or must already lie in the local cache."""

    DOWNLOAD = "download"
    CACHE_ONLY = "cache-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A checkpoint in the hub's local cache; `name` is what `find_model` accepts for exactly this revision."""

    name: str
    directory: Path
    size_bytes: int


def find_model(name: str, *, access: HubAccess | None = None, wanted: tuple[str, ...] = WANTED_FILES) -> Path:
    """Returns where a model lies: `name` itself if it is a directory or a GGUF file, else the directory of a hub id.

    A hub id is `org/name` or `org/name@revision`. A directory without safetensors that holds one GGUF model is that file.
    `access` None asks the environment (`QUIRE_OFFLINE`); of an id, only files that match `wanted` are fetched. Downloads show
    the hub's progress bar on standard error.
    Raises ModelNotFoundError where there is no such directory or id or it may not be read, and CheckpointError where the
    download breaks off.
    """
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        return _only_gguf(Path(path)) or Path(path)
    if path.endswith(SUFFIX):
        return _gguf_file(Path(path))
    match = _HUB_ID.fullmatch(name)
    if match is None or os.path.exists(path) or ".." in name:
        raise ModelNotFoundError(
            "This is neither a model directory nor a Hugging Face id",
            given=name[:200] or shown(name),
            next_step="Pass a directory with config.json, a .gguf file, or an id such as org/name or org/name@revision.",
        )
    if access is None:
        access = HubAccess.CACHE_ONLY if read_environment().is_offline else HubAccess.DOWNLOAD
    return _fetch(name, match, access, wanted)


def _gguf_file(path: Path) -> Path:
    if not path.is_file():
        raise ModelNotFoundError(
            "There is no such GGUF file",
            given=shown(str(path)),
            next_step="Pass the path of the file, or of the first of a split one.",
        )
    return path


def _only_gguf(directory: Path) -> Path | None:
    """Returns the GGUF file that is the directory's only model; None where safetensors are there, or no GGUF file.

    Raises ModelNotFoundError where several models are.
    """
    found = [] if has_weights(directory) else first_files(directory)
    if len(found) > 1:
        raise ModelNotFoundError(
            "The directory holds several GGUF models",
            given=", ".join(shown(path.name) for path in found[:8]),
            next_step="Pass the path of one of the files.",
        )
    return found[0] if found else None


def local_models() -> tuple[LocalModel, ...]:
    """Returns the checkpoints in the hub's local cache, by name; empty where there is no cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return ()
    found = [_describe(repo.repo_id, revision) for repo in repos if repo.repo_type == "model" for revision in repo.revisions]
    return tuple(sorted((model for model in found if model is not None), key=lambda model: model.name))


def _describe(repo_id: str, revision: Any) -> LocalModel | None:
    """Returns a cached revision if it holds a config and weights we read."""
    names = {file.file_name for file in revision.files}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        return None
    return LocalModel(
        name=repo_id if "main" in revision.refs else f"{repo_id}@{revision.commit_hash}",
        directory=revision.snapshot_path,
        size_bytes=revision.size_on_disk,
    )


def _fetch(name: str, named: re.Match[str], access: HubAccess, wanted: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        directory = snapshot_download(
            named["repo"],
            revision=named["revision"],
            allow_patterns=list(wanted),
            ignore_patterns=list(UNWANTED_FILES),
            local_files_only=access is HubAccess.CACHE_ONLY,
        )
    except Exception as error:
        raise _translate(error, name, access) from error
    return Path(directory)


def _translate(error: Exception, name: str, access: HubAccess) -> QuireError:
    """Returns our error for one of the hub library's; subclasses come before their bases."""
    from huggingface_hub import errors as hub

    not_found = (
        (hub.GatedRepoError, "gives access to this model only on request", "Accept its terms on its page, then `hf auth login`."),
        (
            hub.RepositoryNotFoundError,
            "knows no such model, or it is private",
            "Check the spelling, pass a directory, or log in with `hf auth login`.",
        ),
        (hub.RevisionNotFoundError, "knows no such revision of this model", "Choose a branch, tag or commit its page lists."),
        (hub.HFValidationError, "does not accept this id", "Pass an id such as org/name."),
    )
    for kind, problem, next_step in not_found:
        if isinstance(error, kind):
            return ModelNotFoundError(f"Hugging Face {problem}", given=name, next_step=next_step)
    if isinstance(error, hub.LocalEntryNotFoundError):
        return _not_cached(name, access)
    return CheckpointError(
        f"The download from Hugging Face failed ({type(error).__name__})",
        given=name,
        next_step="Check the network and the free disk space, then run the same command: finished files are kept.",
    )


def _not_cached(name: str, access: HubAccess) -> QuireError:
    if access is HubAccess.CACHE_ONLY:
        return ModelNotFoundError(
            "There is no such model directory, and the local cache does not hold all files of this Hugging Face id",
            given=name,
            next_step="Unset QUIRE_OFFLINE and HF_HUB_OFFLINE to download it, or pass a directory.",
        )
    return ModelNotFoundError(
        "There is no such model directory, and Hugging Face cannot be reached to download this id",
        given=name,
        next_step="Check the spelling of the path or the network, or pass a directory.",
    )
