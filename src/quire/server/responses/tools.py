"""`tools` and `tool_choice`: tools of the request are refused until the server calls tools, those of a host are skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from quire.server.errors import ApiError, refuse

_OF_THE_REQUEST = ("function", "custom", "namespace")
_FREE_CHOICES = ("auto", "none")


def skipped_tools(tools: Sequence[Any], tool_choice: object) -> Iterator[str]:
    """Yields the names of tools that a host would have to run, such as web_search.

    Raises ApiError for a tool of the request, for what is none, and where a call is demanded.
    """
    if not _is_free(tool_choice):
        raise _unsupported("tool_choice", "tool_choice")
    for idx, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not isinstance(kind, str):
            raise refuse(f"tools.{idx} has no type", "Send an object with a type.", param=f"tools.{idx}")
        if kind in _OF_THE_REQUEST:
            raise _unsupported(f"tools.{idx}", "tools")
        yield f"tools.{kind}"


def _is_free(tool_choice: object) -> bool:
    """Returns whether an answer without a call is what was asked for."""
    if isinstance(tool_choice, dict) and tool_choice.get("type") == "allowed_tools":
        return tool_choice.get("mode") == "auto"
    return tool_choice is None or tool_choice in _FREE_CHOICES


def _unsupported(place: str, param: str) -> ApiError:
    return refuse(
        f"{place} asks for tool calls, which this server does not support yet",
        f"Leave {param} out.",
        param=param,
        code="unsupported_tools",
    )
