"""What a model can do, in the words of Anthropic's list of models: every name that it knows, and whether it is there."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_NO = {"supported": False}


def _none_of(*names: str) -> dict[str, Any]:
    return {**_NO, **dict.fromkeys(names, _NO)}


CAPABILITIES: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(("batch", "citations", "code_execution", "image_input", "pdf_input", "structured_outputs"), _NO),
        "context_management": _none_of("clear_thinking_20251015", "clear_tool_uses_20250919", "compact_20260112"),
        "effort": _none_of("low", "medium", "high", "xhigh", "max"),
        "server_tools": _none_of("code_execution", "web_search"),
        "thinking": {**_NO, "types": dict.fromkeys(("adaptive", "between_tools", "disabled", "enabled"), _NO)},
    }
)
