"""`quire bench` as a user runs it: every question ends in one JSON line that says where it was measured and how."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from quire.cli.main import cli
from quire.executors.native import available_isas

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
SPEED_FIELDS = {
    "name",
    "seconds",
    "tokens_per_second",
    "spread",
    "roofline_seconds",
    "share_of_roofline",
    "share_of_bandwidth",
    "share_of_flops",
    "ratio",
    "ratio_is",
}


@pytest.fixture(scope="module")
def shape(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(tiny_model / "config.json", tmp_path_factory.mktemp("shape") / "shape.json"))


@pytest.mark.parametrize(
    ("arguments", "num_speeds"),
    [
        (("decode", "--depth", "40", "--new", "4"), 2),
        (("batch", "--new", "3", "--largest", "2"), 2),
        (("prefix", "--requests", "2", "--shared", "64", "--own", "16", "--new", "2"), 4),
        (("start",), 12),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_benchmark_ends_with_its_circumstances(shape: Path, arguments: tuple[str, ...], num_speeds: int) -> None:
    common = ("--config", str(shape), "--repeat", "1", "--threads", "1")
    result = CliRunner().invoke(cli, ("bench", *arguments, *common))
    assert result.exit_code == 0, result.output
    assert "canary after" in result.stdout
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["bench"] == arguments[0]
    assert len(report["speeds"]) == num_speeds
    assert all(set(speed) == SPEED_FIELDS and speed["seconds"] > 0 for speed in report["speeds"])
    assert report["settings"]["model"] == "shape.json"
    assert report["settings"]["repeat"] == 1
    assert {"machine", "versions", "before", "after", "executor", "threads", "dtype", "kv_format"} <= set(report)
    assert report["versions"]["quire"]
    assert report["machine"]["num_usable_cores"] >= 1


def test_every_benchmark_has_help_with_an_example() -> None:
    for name in ("decode", "prefill", "batch", "prefix", "kernels", "start"):
        assert "Example:" in CliRunner().invoke(cli, ("bench", name, "--help")).stdout
