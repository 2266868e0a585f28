"""The `quire` command: a group that imports a command's module only when that command runs.

A new command is one line in `COMMANDS`. `quire --help` imports click and this file only, so it is fast.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import IO, Any

import click

from quire import __version__
from quire.cli.stdio import prepare_streams, report_system_error
from quire.cli.unknown_option import answered, refuse_misread
from quire.errors import ConfigError, ModelError, ModelNotFoundError, QuireError, RequestError, TemplateError

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
"""Exit codes. MISUSED means that another command line or input is needed; INTERRUPTED is 128 + SIGINT, as shells report it."""

_ARGUMENTS = f"{__name__}.arguments"
_MISUSES = (ConfigError, RequestError, ModelNotFoundError)
_DESCRIBING = ("plan",)
"""Commands whose input is a model's description: one that cannot be used is misuse, not a failure."""

_EPILOG = """\b
Exit codes:
  0    done
  1    failed: a damaged or unsupported model, a failed computation, a full disk, a check that does not hold
  2    cannot be done as asked: an unknown option, a value outside its limits, options that contradict each other,
       a prompt or a file that is missing, too long or not text, a model that is not found
  130  interrupted by Ctrl-C
"""


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """Where a command lives, `module:function`, and its line in `quire --help`."""

    path: str
    summary: str

    def load(self) -> click.Command:
        """Imports and returns the command."""
        module, name = self.path.split(":")
        command: click.Command = getattr(import_module(module), name)
        return command


COMMANDS: Mapping[str, CommandEntry] = MappingProxyType(
    {
        "run": CommandEntry("quire.cli.run:run", "Answer one prompt, streamed to standard output."),
        "chat": CommandEntry("quire.cli.chat:chat", "Hold a conversation; earlier turns are never computed twice."),
        "serve": CommandEntry("quire.cli.serve:serve", "Serve a model over HTTP, for clients of the OpenAI API."),
        "plan": CommandEntry("quire.cli.plan:plan", "Show memory, contexts, FLOPs and times of a model before it is loaded."),
        "verify": CommandEntry("quire.cli.verify:verify", "Check the five promises on a model and this machine."),
        "bench": CommandEntry("quire.cli.bench:bench", "Measure speed, compared with the machine's peak."),
        "quantize": CommandEntry("quire.cli.quantize:quantize", "Write a checkpoint with 4- or 8-bit weights."),
        "train": CommandEntry("quire.cli.train:train", "Train a model on text or conversations."),
        "info": CommandEntry("quire.cli.info:info", "Show the machine, instruction sets, executors and versions."),
        "models": CommandEntry("quire.cli.models:models", "List supported families and local checkpoints, or describe one."),
    }
)


class ReportedError(click.ClickException):
    """A QuireError for click: one red line on standard error."""

    exit_code = FAILED

    def show(self, file: object = None) -> None:  # noqa: ARG002 - click's signature
        from quire.cli.display import show_error

        with suppress(OSError):  # an error stream that cannot be written changes no exit code
            show_error(self.message)


class ReportedMisuseError(ReportedError):
    """An error that another command line or input avoids."""

    exit_code = MISUSED


def reported(error: QuireError, command: click.Command) -> ReportedError:
    """Returns a command's error with the exit code of its kind.

    A chat template that fails is the model's fault, not the request's.
    """
    from quire.cli.option_names import as_typed

    is_misuse = isinstance(error, _MISUSES) and not isinstance(error, TemplateError)
    is_misuse |= isinstance(error, ModelError) and command.name in _DESCRIBING
    return (ReportedMisuseError if is_misuse else ReportedError)(as_typed(str(error), command))


class ReportedUsageError(click.ClickException):
    """One of click's own errors, whose exit code stays what it is where the error stream cannot be written."""

    exit_code = MISUSED

    def __init__(self, error: click.UsageError) -> None:
        super().__init__(error.format_message())
        self._error = error

    def show(self, file: IO[Any] | None = None) -> None:
        with suppress(OSError):
            self._error.show(file)


class LazyGroup(click.Group):
    """A group over `COMMANDS` that turns errors and Ctrl-C into exit codes."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        given = tuple(args)
        try:
            context = super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise ReportedUsageError(answered(error, given)) from error
        context.meta[_ARGUMENTS] = given
        return context

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            refuse_misread(click.Context(command, info_name=name, parent=ctx), rest)
        return name, command, rest

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        entry = COMMANDS.get(cmd_name)
        return None if entry is None else entry.load()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except QuireError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            raise reported(error, command or self) from error
        except click.UsageError as error:
            raise ReportedUsageError(answered(error, ctx.meta[_ARGUMENTS])) from error
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


@click.group(cls=LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="quire", message="%(prog)s %(version)s")
def cli() -> None:
    """Run language models from Hugging Face checkpoints, with a KV cache you can trust and watch.

    \b
    Example:
      quire run "What is the capital of France?"
    """


def main() -> None:
    """Runs the command line of this process. A broken pipe ends it silently, any other system error with one line."""
    try:
        prepare_streams()
        cli(prog_name="quire")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        report_system_error(error)
        sys.exit(FAILED)
