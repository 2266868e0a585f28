"""Tools of a request: those that the client runs, as chat templates read them, and those that Anthropic's servers would run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.server.errors import refuse
from quire.server.limits import Limits
from quire.server.messages.blocks import text_of

_NEUTRAL_CHOICES = ("auto", "none")
_TEXTS = ("name", "description")
_KEYS = ("type", "input_schema", *_TEXTS)


class ToolReader:
    """Reads the tools of one request and collects the names of what it drops in `dropped`."""

    def __init__(self, limits: Limits, dropped: list[str]) -> None:
        self._limits, self._dropped = limits, dropped

    def tools(self, tools: object) -> list[dict[str, Any]]:
        """Returns the client's tools; raises ApiError that names the place of what is none.

        A tool whose type Anthropic defines has no schema that a model here could read: it is dropped.
        """
        if tools is None:
            return []
        if not isinstance(tools, list) or len(tools) > self._limits.tools:
            raise refuse(
                f"tools must be a list of at most {self._limits.tools} tools",
                'Send [{"name": "...", "input_schema": {...}}].',
                param="tools",
            )
        read = (self._tool(tool, f"tools.{idx}") for idx, tool in enumerate(tools))
        return [tool for tool in read if tool is not None]

    def _tool(self, tool: object, place: str) -> dict[str, Any] | None:
        if not isinstance(tool, dict):
            raise refuse(f"{place} is not an object", 'Send {"name": "...", "input_schema": {...}}.', param=place)
        kind = tool.get("type")
        if kind not in (None, "custom"):
            self._dropped.append(f"tools.{kind}" if isinstance(kind, str) else "tools.type")
            return None
        if not isinstance(tool.get("input_schema"), dict):
            raise refuse(f"{place}.input_schema must be an object", "Send a JSON schema.", param=f"{place}.input_schema")
        self._dropped += [f"tools.{key}" for key in tool if key not in _KEYS]
        texts = {name: text_of(tool[name], f"{place}.{name}") for name in _TEXTS if tool.get(name) is not None}
        if "name" not in texts:
            raise refuse(f"{place} has no name", "Send a name for each tool.", param=f"{place}.name")
        return {"type": "function", "function": {**texts, "parameters": tool["input_schema"]}}


def forces_tool(choice: object) -> bool:
    """Returns whether a `tool_choice` leaves the model no other answer than a call."""
    return choice is not None and not (isinstance(choice, Mapping) and choice.get("type") in _NEUTRAL_CHOICES)
