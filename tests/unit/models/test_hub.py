"""Names of models: directories, Hugging Face ids, and every way in which neither can be had. No network is used."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from quire.errors import CheckpointError, ModelNotFoundError
from quire.models.hub import UNWANTED_FILES, WANTED_FILES, HubAccess, find_model, local_models


class FakeHub:
    """Stands for `snapshot_download`: records its calls and answers with a directory or an error."""

    def __init__(self, answer: Path | BaseException) -> None:
        self.answer = answer
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, repo_id: str, **options: Any) -> str:
        self.calls.append((repo_id, options))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return str(self.answer)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    fake = FakeHub(tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    monkeypatch.delenv("QUIRE_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    return fake


def _http_error(kind: type[hub_errors.HfHubHTTPError]) -> Exception:
    """Returns the library's error without the HTTP response that its constructor wants."""
    error = kind.__new__(kind)
    error.args = ("401 Client Error: https://huggingface.co/secret",)
    return error


def test_directory_is_its_own_answer(hub: FakeHub, tmp_path: Path) -> None:
    assert find_model(str(tmp_path)) == tmp_path
    assert hub.calls == []


def test_directory_that_looks_like_an_id_wins(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert find_model("org/name") == Path("org/name")
    assert hub.calls == []


@pytest.mark.parametrize(
    ("name", "repo_id", "revision"),
    [
        ("org/name", "org/name", None),
        ("gpt2", "gpt2", None),
        ("Org-1/Name.2_b@main", "Org-1/Name.2_b", "main"),
        ("org/name@refs/pr/1", "org/name", "refs/pr/1"),
    ],
)
def test_id_and_revision_reach_the_hub(hub: FakeHub, tmp_path: Path, name: str, repo_id: str, revision: str | None) -> None:
    assert find_model(name) == tmp_path / "snapshot"
    called_with, options = hub.calls[0]
    assert called_with == repo_id
    assert options["revision"] == revision
    assert options["local_files_only"] is False


@pytest.mark.parametrize(
    "name",
    ["", " ", "/absent/directory", "./absent", "../x", "a/b/c", "org/", "/name", "org/name@", "org/name@../../x", "a b",
     "org\\name", "org/na\nme", "~nobody-here/x", "https://huggingface.co/org/name", "x" * 300, "org/..", "a\0b"],
)  # fmt: skip
def test_names_that_are_neither_are_refused_without_asking_the_hub(hub: FakeHub, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="neither a model directory nor a Hugging Face id"):
        find_model(name)
    assert hub.calls == []


def test_file_is_not_a_model(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"directory with config\.json"):
        find_model("model.safetensors")
    assert hub.calls == []


def test_only_data_is_asked_for(hub: FakeHub) -> None:
    from huggingface_hub.utils import filter_repo_objects

    find_model("org/name")
    options = hub.calls[0][1]
    assert (options["allow_patterns"], options["ignore_patterns"]) == (list(WANTED_FILES), list(UNWANTED_FILES))
    wanted = [
        "config.json", "generation_config.json", "model.safetensors", "model-00001-of-00002.safetensors",
        "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "merges.txt", "vocab.txt", "chat_template.json", "additional_chat_templates/tool_use.jinja",
    ]  # fmt: skip
    unwanted = [
        "pytorch_model.bin", "modeling_x.py", "model.gguf", "onnx/model.onnx", "onnx/config.json", "original/model.safetensors",
        "original/vocab.txt", "a/b/c.jinja",
        "consolidated.safetensors", "README.md", "tf_model.h5", "adapter_model.safetensors", "training_args.pt", "tokenizer.pkl",
    ]  # fmt: skip
    chosen = filter_repo_objects(
        wanted + unwanted, allow_patterns=options["allow_patterns"], ignore_patterns=options["ignore_patterns"]
    )
    assert list(chosen) == wanted


@pytest.mark.parametrize("variable", ["QUIRE_OFFLINE", "HF_HUB_OFFLINE"])
def test_environment_keeps_the_hub_offline(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    find_model("org/name")
    assert hub.calls[0][1]["local_files_only"] is True


def test_explicit_access_wins_over_the_environment(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_OFFLINE", "1")
    find_model("org/name", access=HubAccess.DOWNLOAD)
    find_model("org/name", access=HubAccess.CACHE_ONLY)
    assert [options["local_files_only"] for _, options in hub.calls] == [False, True]


@pytest.mark.parametrize(
    ("error", "access", "words"),
    [
        (_http_error(hub_errors.GatedRepoError), HubAccess.DOWNLOAD, "Accept its terms"),
        (_http_error(hub_errors.RepositoryNotFoundError), HubAccess.DOWNLOAD, "no such model, or it is private"),
        (_http_error(hub_errors.RevisionNotFoundError), HubAccess.DOWNLOAD, "no such revision"),
        (hub_errors.HFValidationError("bad"), HubAccess.DOWNLOAD, "does not accept this id"),
        (hub_errors.LocalEntryNotFoundError("no"), HubAccess.DOWNLOAD, "cannot be reached"),
        (hub_errors.LocalEntryNotFoundError("no"), HubAccess.CACHE_ONLY, "Unset QUIRE_OFFLINE"),
    ],
)
def test_models_that_cannot_be_had_say_what_to_do(hub: FakeHub, error: Exception, access: HubAccess, words: str) -> None:
    hub.answer = error
    with pytest.raises(ModelNotFoundError, match=words) as caught:
        find_model("org/name", access=access)
    assert "org/name" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [_http_error(hub_errors.HfHubHTTPError), OSError(28, "No space left"), ConnectionError("reset"), RuntimeError("x")]
)
def test_broken_download_is_a_checkpoint_error(hub: FakeHub, error: Exception) -> None:
    hub.answer = error
    with pytest.raises(CheckpointError, match="finished files are kept") as caught:
        find_model("org/name")
    assert type(error).__name__ in str(caught.value)
    assert caught.value.__cause__ is error


def test_interrupt_is_not_an_error_of_ours(hub: FakeHub) -> None:
    hub.answer = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        find_model("org/name")


def _fill_cache(cache: Path, repo: str, commit: str, files: list[str], ref: str | None = "main") -> Path:
    """Writes one revision as the hub library lays it out."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in files:
        (snapshot / name).write_bytes(b"12345")
    if ref is not None:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return snapshot


def _scan(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: scan(cache))


def test_cached_checkpoints_are_listed_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    main, old = "a" * 40, "b" * 40
    snapshot = _fill_cache(tmp_path, "org/two", main, ["config.json", "model.safetensors"])
    _fill_cache(tmp_path, "org/two", old, ["config.json", "model.safetensors"], ref=None)
    _fill_cache(tmp_path, "org/pickled", main, ["config.json", "pytorch_model.bin"])
    _fill_cache(tmp_path, "org/no-config", main, ["model.safetensors"])
    _fill_cache(tmp_path, "one", main, ["config.json", "model-00001-of-00001.safetensors"])
    _scan(monkeypatch, tmp_path)
    models = local_models()
    assert [model.name for model in models] == ["one", "org/two", f"org/two@{old}"]
    assert models[1].directory == snapshot
    assert models[1].size_bytes == 10


def test_no_cache_means_no_local_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _scan(monkeypatch, tmp_path / "absent")
    assert local_models() == ()


def test_other_kinds_of_repositories_are_not_models(monkeypatch: pytest.MonkeyPatch) -> None:
    files = tuple(SimpleNamespace(file_name=name) for name in ("config.json", "model.safetensors"))
    revision = SimpleNamespace(files=files, refs={"main"}, commit_hash="c", snapshot_path=Path(), size_on_disk=1)
    repo = SimpleNamespace(repo_type="dataset", repo_id="org/data", revisions=(revision,))
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: SimpleNamespace(repos=(repo,)))
    assert local_models() == ()
