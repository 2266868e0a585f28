"""`quire models`: families, what lies in the cache, one directory in numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from quire.cli.main import cli
from quire.models import hub
from quire.models.families import FAMILIES
from quire.models.hub import LocalModel
from support.configs import CONFIGS, spec_of
from support.quantized_checkpoint import write_pair
from support.quantized_methods import BY_NAME


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "local_models", lambda: ())


def _write_config(directory: Path, family: str) -> Path:
    (directory / "config.json").write_text(json.dumps(CONFIGS[family]))
    return directory


def test_every_family_is_listed() -> None:
    shown = CliRunner().invoke(cli, ["models"]).stdout
    found = json.loads(CliRunner().invoke(cli, ["models", "--json"]).stdout)
    assert [family["name"] for family in found["families"]] == [family.name for family in FAMILIES]
    assert all(name in shown for family in FAMILIES for name in family.architectures)


def test_cached_checkpoints_are_listed_with_their_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = LocalModel(name="org/small[red]", directory=tmp_path, size_bytes=3 * 2**20)
    monkeypatch.setattr(hub, "local_models", lambda: (model,))
    shown = CliRunner().invoke(cli, ["models"]).stdout
    assert "org/small[red]" in shown
    assert "3.0 MiB" in shown
    found = json.loads(CliRunner().invoke(cli, ["models", "--json"]).stdout)
    assert found["local"] == [{"name": "org/small[red]", "directory": str(tmp_path), "size_bytes": 3 * 2**20}]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_config_alone_is_described(tmp_path: Path, family: str) -> None:
    result = CliRunner().invoke(cli, ["models", str(_write_config(tmp_path, family)), "--json"])
    found, spec = json.loads(result.stdout), spec_of(family)
    assert (found["family"], found["num_layers"], found["file_bytes"]) == (spec.family, spec.num_layers, None)
    assert found["kv_bytes_per_token"]["float32"] == 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * 4
    assert found["kv_bytes_per_token"]["float32"] == 2 * found["kv_bytes_per_token"]["bfloat16"]


def test_description_names_the_sliding_window(tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli, ["models", str(_write_config(tmp_path, "gemma3_text"))]).stdout
    assert "32 tokens in 3 of 4 layers" in shown


def test_parameters_are_counted_tensor_by_tensor(tmp_path: Path) -> None:
    _write_config(tmp_path, "llama")
    found = json.loads(CliRunner().invoke(cli, ["models", str(tmp_path), "--json"]).stdout)
    embedding, layer = 251 * 56, 2 * 56 * 56 + 2 * 8 * 56 + 3 * 100 * 56 + 2 * 56
    assert found["num_parameters"] == 2 * embedding + 4 * layer + 56


def test_directory_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    assert CliRunner().invoke(cli, ["models", str(tmp_path / "none")]).exit_code == 2


def test_directory_without_a_model_is_an_error_with_its_next_step(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["models", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: The model directory holds no config.json")


@pytest.mark.parametrize("spelled", [(), ("-m",)])
def test_a_model_is_named_as_other_commands_take_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spelled: tuple[str, ...]
) -> None:
    asked: dict[str, object] = {}

    def fetch(repo_id: str, **options: object) -> str:
        asked.update(options, repo_id=repo_id)
        return str(_write_config(tmp_path, "llama"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    result = CliRunner().invoke(cli, ["models", *spelled, "org/name@v1", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["family"] == "llama"
    assert (asked["repo_id"], asked["revision"], asked["allow_patterns"]) == ("org/name", "v1", ["config.json"])


def test_quantized_weights_are_described_in_words_and_bits(tmp_path: Path) -> None:
    method = BY_NAME["awq"]
    directory, _ = write_pair(tmp_path, method)
    shown = CliRunner().invoke(cli, ["models", str(directory)]).stdout
    assert "AWQ, 4 bits, groups of 32, zero points; 4.62 bits per quantized weight" in shown
    found = json.loads(CliRunner().invoke(cli, ["models", str(directory), "--json"]).stdout)
    assert found["quantization"] == "AWQ, 4 bits, groups of 32, zero points"
    assert found["bits_per_quantized_weight"] == 4.625


def test_quantized_config_alone_is_described_in_words(tmp_path: Path) -> None:
    fields = {**CONFIGS["llama"], "quantization": {"group_size": 64, "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert "MLX, 4 bits, groups of 64" in CliRunner().invoke(cli, ["models", str(tmp_path)]).stdout
