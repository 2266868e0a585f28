"""`quire info`: facts, and the reason why something is missing."""

from __future__ import annotations

import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from click.testing import CliRunner

from quire.cli.info import gather_info, info
from quire.cli.machine import cpu_name
from quire.cli.main import cli
from quire.executors import native
from quire.executors.prefetch import Prefetch, circumstances, remember

CPUINFO = "processor\t: 0\nvendor_id\t: X\nmodel name\t: Fast CPU 9\nflags\t\t: a b\n\nprocessor\t: 1\nmodel name\t: Fast CPU 9\n"


@pytest.mark.skipif(not native.available_isas(), reason="no compiled core here")
@pytest.mark.parametrize("isa", native.available_isas())
def test_forced_instruction_set_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("QUIRE_ISA", isa)
    found = gather_info()
    assert (found.isa, found.numerics) == (isa, f"native-{native.NUMERICS_VERSION} {isa}")


def test_instruction_set_that_is_not_here_is_not_called_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_ISA", "mmx")
    found = gather_info()
    assert (found.isa, found.numerics) == (None, None)


def test_json_says_what_the_tables_say() -> None:
    found = json.loads(CliRunner().invoke(info, ["--json"]).stdout)
    assert set(found["executors"]) == {"native", "reference", "torch"}
    assert found["executors"]["reference"] == {"available": True, "problem": None}
    assert found["threads"] >= 1
    shown = CliRunner().invoke(info).stdout
    for text in (found["version"], found["python"], found["machine"]["cpu"], *found["isas"]):
        assert text in shown


@pytest.mark.skipif(not native.available_isas(), reason="no compiled core here")
def test_prefetch_is_what_probes_found_unless_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("QUIRE_THREADS", "3")
    monkeypatch.delenv("QUIRE_PREFETCH", raising=False)
    isa = gather_info().isa
    assert isa is not None
    assert gather_info().prefetch == "probed when a model is loaded"
    remember(circumstances(isa, "int8", 3), Prefetch.NEAR)
    remember(circumstances(isa, "bfloat16", 3), Prefetch.NONE)
    remember(circumstances(isa, "int4", 2), Prefetch.NONE)
    assert gather_info().prefetch == "bfloat16 none; int8 near (probed)"
    assert "bfloat16 none; int8 near (probed)" in CliRunner().invoke(info).stdout
    monkeypatch.setenv("QUIRE_PREFETCH", "far")
    assert gather_info().prefetch == "far (QUIRE_PREFETCH)"


def test_missing_core_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available_isas", lambda: ())
    found = gather_info()
    problems = {state.name: state.problem for state in found.executors}
    assert found.isa is None
    assert "not compiled" in str(problems["native"])
    assert problems["reference"] is None


@pytest.mark.parametrize("is_installed", [True, False])
def test_torch_executor_is_available_where_torch_is(monkeypatch: pytest.MonkeyPatch, is_installed: bool) -> None:
    monkeypatch.setattr("quire.cli.info.find_spec", lambda _: ModuleSpec("torch", None) if is_installed else None)
    problems = {state.name: state.problem for state in gather_info().executors}
    expected = None if is_installed else "torch is not installed: run pip install 'quire[torch]'"
    assert problems["torch"] == expected


def test_fastest_instruction_set_is_chosen_unless_the_environment_forces_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available_isas", lambda: ("generic", "avx2"))
    monkeypatch.delenv("QUIRE_ISA", raising=False)
    assert gather_info().isa == "avx2"
    monkeypatch.setenv("QUIRE_ISA", "generic")
    assert gather_info().isa == "generic"


def test_unknown_forced_instruction_set_makes_the_native_executor_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available_isas", lambda: ("generic", "avx2"))
    monkeypatch.setenv("QUIRE_ISA", "mmx")
    states = {state.name: state.problem for state in gather_info().executors}
    assert states["native"] == "QUIRE_ISA=mmx is not one of generic, avx2"


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_THREADS", "3")
    assert gather_info().threads == 3
    monkeypatch.setenv("QUIRE_THREADS", "many")
    assert CliRunner().invoke(cli, ["info"]).exit_code == 2


def test_cpu_name_is_found_whatever_the_architecture() -> None:
    assert cpu_name(CPUINFO) == "Fast CPU 9"
    assert cpu_name("processor\t: 0\nModel\t: Small Board 4\n") == "Small Board 4"
    assert cpu_name("") is None
