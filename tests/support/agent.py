"""Requests shaped like those of Claude Code: an account's header before the system prompt, marks that wander, and tools."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx2

TOOL: dict[str, Any] = {
    "name": "get_time",
    "description": "Tells the time.",
    "input_schema": {"type": "object", "properties": {"zone": {"type": "string"}}},
}
HOSTED = {"type": "web_search_20260318", "name": "web_search", "max_uses": 3}
CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "What time is it?"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "I need a clock.", "signature": "s"},
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "toolu_1", "name": "get_time", "input": {"zone": "UTC"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "12:00"}], "is_error": False},
            {"type": "text", "text": "Thanks."},
        ],
    },
]

_MARK = {"cache_control": {"type": "ephemeral"}}
_RULES = (
    "\nYou are an agent that helps with software. Use short sentences. Never guess a path. Read a file before you change it. "
    "Prefer small changes. Run the tests that belong to a change. Say what you did and what is left to do. "
)
_REMINDER = "<system-reminder>\nThe working directory is /project. It is a git repository.\n</system-reminder>\n"


def agent_request(questions: list[str], answers: list[str], **fields: Any) -> dict[str, Any]:
    """Returns the request of turn `len(questions)`, with a mark on its last block and another account header each time."""
    salt = hashlib.sha256(repr((questions, answers)).encode()).hexdigest()[:5]
    messages: list[dict[str, Any]] = []
    for idx, question in enumerate(questions):
        blocks = [{"type": "text", "text": question}]
        messages.append({"role": "user", "content": [{"type": "text", "text": _REMINDER}, *blocks] if idx == 0 else blocks})
        if idx < len(answers):
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answers[idx]}]})
    messages[-1]["content"][-1].update(_MARK)
    return {
        "model": "claude-opus-4-6",
        "max_tokens": 32_000,
        "system": [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.161.{salt}; cc_entrypoint=cli; cch={salt};"},
            {"type": "text", "text": "You are Claude Code, a command-line agent.", **_MARK},
            {"type": "text", "text": _RULES, **_MARK},
        ],
        "messages": messages,
        "metadata": {"user_id": f"user_{salt}_account__session_{salt}"},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "stream": True,
        **fields,
    }


def num_prompt(answer: httpx2.Response) -> int:
    """Returns how many tokens the prompt of a message had."""
    usage = answer.json()["usage"]
    return int(usage["input_tokens"] + usage["cache_creation_input_tokens"] + usage["cache_read_input_tokens"])
