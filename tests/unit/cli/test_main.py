"""The group: quick to start, exit codes, errors on one line."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from quire import __version__
from quire.cli import main as main_module
from quire.cli.main import COMMANDS, CommandEntry, cli
from quire.errors import ConfigError

HEAVY = ("numpy", "tokenizers", "safetensors", "jinja2", "huggingface_hub", "rich", "torch")


@click.command()
@click.argument("how")
def failing(how: str) -> None:
    if how == "interrupt":
        raise KeyboardInterrupt
    raise ConfigError("the color is wrong\nand long", given="blue", limit="red or green", next_step="Choose another.")


@pytest.fixture(autouse=True)
def _with_failing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module, "COMMANDS", {"failing": CommandEntry(f"{__name__}:failing", "Fail.")})


def test_group_imports_nothing_heavy() -> None:
    code = f"import sys, quire.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_help_of_the_group_imports_no_command() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from quire.cli.main import cli; "
        "print(CliRunner().invoke(cli, ['--help']).exit_code, 'quire.cli.run' in sys.modules, 'numpy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0 False False"


def test_help_of_every_command_imports_no_numpy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from quire.cli.main import cli; "
        "print({CliRunner().invoke(cli, [name, '--help']).exit_code for name in ('run', 'chat', 'info', 'models')}, "
        "'numpy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "{0} False"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_has_an_example(name: str) -> None:
    command = COMMANDS[name].load()
    shown = CliRunner().invoke(command, ["--help"])
    assert shown.exit_code == 0
    assert "Example" in shown.output
    assert f"quire {name}" in shown.output


def test_version_is_the_packages() -> None:
    assert CliRunner().invoke(cli, ["--version"]).output == f"quire {__version__}\n"


def test_error_is_one_line_on_standard_error() -> None:
    result = CliRunner().invoke(cli, ["failing", "now"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "error: the color is wrong and long (given: blue; limit: red or green). Choose another.\n"


def test_interrupt_ends_with_130_and_says_nothing() -> None:
    result = CliRunner().invoke(cli, ["failing", "interrupt"])
    assert (result.exit_code, result.output) == (130, "")


def test_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["frobnicate"])
    assert result.exit_code == 2
    assert "No such command" in result.stderr
