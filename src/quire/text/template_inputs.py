"""The inputs of a chat template besides messages; one that the template would ignore is refused."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from quire.errors import TemplateError
from quire.text.plain_values import mapping_of, plain_copy
from quire.text.template_names import ALLOWED_GLOBALS, REFUSED_GLOBALS
from quire.values import shown

DEFAULT = "default"
_TOOL_USE = "tool_use"
_RAG = "rag"
_FROM_THE_ENGINE = ("messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now")
_NOT_VARIABLES = ("chat_template", "continue_final_message")
_RESERVED = frozenset((*_FROM_THE_ENGINE, *_NOT_VARIABLES, *ALLOWED_GLOBALS, *REFUSED_GLOBALS))

NamesRead = Callable[[str], frozenset[str]]
"""Returns the variables that the template of a name reads."""


class TemplateInputs(TypedDict, total=False):
    """Keyword arguments of rendering. Every one may be left out.

    `tools` are JSON schemas of functions and `documents` texts to answer from, each a dictionary. `variables` go to the
    template by name (such as enable_thinking). `chat_template` is the name of one of the model's templates.
    """

    tools: Sequence[Mapping[str, Any]] | None
    documents: Sequence[Mapping[str, Any]] | None
    variables: Mapping[str, Any] | None
    chat_template: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainInputs:
    """The inputs of one rendering, checked and made plain."""

    tools: list[dict[Any, Any]] | None
    documents: list[dict[Any, Any]] | None
    variables: dict[str, Any]
    chat_template: str | None

    def by_name(self) -> dict[str, Any]:
        """Returns what the template sees: tools and documents are None, not undefined, where there are none."""
        return {"tools": self.tools, "documents": self.documents, **self.variables}


def read_inputs(inputs: TemplateInputs) -> PlainInputs:
    """Returns the inputs plain; raises TemplateError for what is not a list or a mapping where one belongs."""
    return PlainInputs(
        tools=_dictionaries("tools", inputs.get("tools")),
        documents=_dictionaries("documents", inputs.get("documents")),
        variables=_variables(inputs.get("variables")),
        chat_template=inputs.get("chat_template"),
    )


def choose_template(inputs: PlainInputs, names: Collection[str], reads: NamesRead) -> str:
    """Returns the name of the template for these inputs, as transformers chooses it; raises TemplateError if there is none.

    Documents go to the template called rag where the default one does not read them.
    """
    chosen = inputs.chat_template
    if chosen is not None:
        if not isinstance(chosen, str) or chosen not in names:
            raise TemplateError(
                "chat_template is the name of one of the model's templates, and it has none of this name",
                given=shown(chosen),
                limit=f"its names are {', '.join(names)}",
                next_step="Pass one of these names, or leave chat_template out.",
            )
        return chosen
    if inputs.tools is not None and _TOOL_USE in names:
        return _TOOL_USE
    if inputs.documents is not None and _RAG in names and (DEFAULT not in names or "documents" not in reads(DEFAULT)):
        return _RAG
    if DEFAULT in names:
        return DEFAULT
    raise TemplateError(
        "this model has several chat templates, and none of them is the default",
        given=", ".join(names),
        next_step='Choose one by its name: chat_template="...".',
    )


def require_all_read(inputs: PlainInputs, name: str, reads: NamesRead, names: Collection[str]) -> None:
    """Raises TemplateError for tools or documents that the template called `name` would ignore."""
    for kind, values in (("tools", inputs.tools), ("documents", inputs.documents)):
        if values and kind not in reads(name):
            raise _ignored(kind, name, [other for other in names if kind in reads(other)])


def require_variables_read(variables: Collection[str], names_read: frozenset[str], special_tokens: Collection[str]) -> None:
    """Raises TemplateError for a variable that the engine itself gives the template, or that the template never reads."""
    for variable in variables:
        if variable in _RESERVED or variable in special_tokens:
            raise TemplateError(
                "a variable has a name that the chat template gets from the engine",
                given=f"variables with {variable!r}",
                next_step=f"Pass {variable}= itself." if variable in TemplateInputs.__annotations__ else "Leave it out.",
            )
        if variable not in names_read:
            known = ", ".join(sorted(names_read - _RESERVED - frozenset(special_tokens)))
            raise TemplateError(
                "the chat template never reads this variable, so it would be ignored",
                given=repr(variable)[:60],
                limit=f"it reads {known}"[:400] if known else "it reads no variables",
                next_step="Check the spelling, or leave the variable out.",
            )


def _variables(variables: object) -> dict[str, Any]:
    if variables is None:
        return {}
    if not isinstance(variables, Mapping) or not all(isinstance(name, str) for name in variables):
        raise TemplateError(
            "variables are a mapping of names to values",
            given=shown(variables),
            next_step='Pass variables={"enable_thinking": False}, or leave them out.',
        )
    copies: dict[str, Any] = plain_copy(variables)
    return copies


def _dictionaries(kind: str, values: object) -> list[dict[Any, Any]] | None:
    if values is None:
        return None
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise _not_dictionaries(kind, shown(values))
    for value in values:
        if mapping_of(value) is None:
            raise _not_dictionaries(kind, f"a list with {shown(value)}")
    copies: list[dict[Any, Any]] = plain_copy(list(values))
    return copies


def _not_dictionaries(kind: str, given: str) -> TemplateError:
    form = '[{"type": "function", "function": {...}}]' if kind == "tools" else '[{"title": "...", "text": "..."}]'
    return TemplateError(f"{kind} are a list of dictionaries", given=given, next_step=f"Pass {kind}={form}.")


def _ignored(kind: str, name: str, others: Sequence[str]) -> TemplateError:
    next_step = f"Leave {kind} out, write them into a message, or use a model whose template reads them."
    if others:
        also = f" (also {', '.join(others[1:])})" if others[1:] else ""
        next_step = f'Choose one that reads them: chat_template="{others[0]}"{also}.'
    return TemplateError(
        f"the model's chat template never reads {kind}, so they would be ignored",
        given=f"{kind}= with the template {name!r}",
        limit=None if others else f"no template of this model reads {kind}",
        next_step=next_step,
    )
