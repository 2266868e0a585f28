"""Loads the model that a command's options name, and shows a progress bar on a terminal meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quire.cli.defaults import FILE_NAME, read_defaults
from quire.cli.display import loading_bar, show_note
from quire.cli.options import EngineChoice, SamplingOptions
from quire.config import ExecutorKind
from quire.engine.llm import LLM
from quire.engine.options import AUTO
from quire.errors import TemplateError
from quire.models.bundled import directory as bundled_directory
from quire.models.hub import find_model
from quire.request import SamplingParams
from quire.text.conversation import Conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A loaded model, its name for display, and the sampling parameters of its answers."""

    name: str
    llm: LLM
    params: SamplingParams


def load_model(choice: EngineChoice, sampling: SamplingOptions) -> LoadedModel:
    """Finds and loads the model; raises SamplingError before loading, and what `LLM` raises."""
    directory = find_directory(choice.model)
    defaults = read_defaults(directory)
    params = defaults.params(sampling)
    if defaults.unapplied:
        show_note(f"note: {FILE_NAME} asks for {', '.join(defaults.unapplied)}, which Quire does not apply")
    name = choice.model or "bundled"
    options = choice.options.copy()
    with loading_bar(f"Loading {name}") as on_progress:
        options["on_progress"] = on_progress
        llm = LLM(directory, **options)
    _note_fallback(choice, llm)
    return LoadedModel(name=name, llm=llm, params=params)


def start_conversation(llm: LLM) -> Conversation:
    """Returns a conversation without turns; raises TemplateError, which names the command to use instead, if it cannot chat."""
    if llm.tokenizer.chat_template is None:
        raise TemplateError(
            "this model has no chat template", next_step="Use `quire run --raw` and write the prompt's format yourself."
        )
    return llm.conversation()


def _note_fallback(choice: EngineChoice, llm: LLM) -> None:
    """Shows a note if the slow reference executor computes without having been asked for."""
    is_requested = choice.options.get("executor", AUTO) != AUTO
    if llm.config.executor is ExecutorKind.REFERENCE and not is_requested:
        show_note(
            "note: the native core was not compiled here, so the slow reference executor computes. "
            "Install a C++17 compiler and CMake and reinstall Quire."
        )


def find_directory(model: str | None) -> Path:
    """Returns the directory of a model named on the command line; None names the bundled one."""
    return bundled_directory() if model is None else find_model(model)
