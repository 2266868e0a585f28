"""The notes below an answer, and the tables and block maps of `/stats` and `/cache`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rich.console import Group, RenderableType
from rich.text import Text

from quire.cli.chat_session import MAKE_ROOM, ChatSession, Dialogue
from quire.cli.display import facts, show_note
from quire.cli.follow_stream import Answer, end_line, note_of_full_context
from quire.kv.ledger import CacheExplanation, MissReason
from quire.kv.pool import BlockPool
from quire.units import cdiv, format_bytes, format_rate

MAP_CELLS = 64
_REASONS: Mapping[MissReason, str] = MappingProxyType(
    {
        MissReason.COLD: "nothing after this prefix was ever cached",
        MissReason.DIVERGED: "the cached tokens continue differently",
        MissReason.EVICTED: "the next block was cached, but it has been evicted",
        MissReason.PARTIAL: "the rest is less than a block, or only the last token",
        MissReason.DISABLED: "the prefix cache is off",
        MissReason.BYPASSED: "every further token was computed because the logits of all of them were wanted",
    }
)


def show_answer(session: ChatSession, answer: Answer) -> None:
    """Ends the line of a streamed answer, and shows a note if the context is full."""
    end_line(answer.text)
    note = note_of_full_context(answer, session.loaded.params, session.llm.core.scheduler.limits)
    if note is not None:
        show_note(f"{note}. {MAKE_ROOM}")


def stats_view(session: ChatSession) -> RenderableType:
    """Returns the numbers of the conversation and of its last answer."""
    num_tokens = num_context_tokens(session.dialogue)
    layout = session.llm.core.executor.layout
    rows = {
        "model": f"{session.loaded.name} on {session.llm.core.executor.name}",
        "branch": session.branch,
        "turns": str(len(session.dialogue.answers)),
        "context": f"{num_tokens} of {session.llm.config.max_context} tokens",
        "KV": f"{format_bytes(layout.blocks_for_tokens(num_tokens) * layout.bytes_per_block)} for this conversation",
    }
    if session.last is None:
        return facts("Conversation", rows)
    stats = session.last.stats
    last = {
        "prompt": f"{stats.num_prompt_tokens} tokens, {stats.num_cached_tokens} reused",
        "answer": f"{stats.num_output_tokens} tokens",
        "TTFT": "unknown" if stats.ttft_s is None else f"{stats.ttft_s * 1000:.0f} ms",
        "speed": "unknown" if stats.tokens_per_s is None else format_rate(stats.tokens_per_s, "tokens"),
    }
    return Group(facts("Conversation", rows), "", facts("Last answer", last))


def cache_view(session: ChatSession) -> RenderableType:
    """Returns what the prefix cache saved for the last answer, why the match ended, and the state of the pool's blocks."""
    core = session.llm.core
    manager = core.scheduler.manager
    pool, usage = manager.pool, manager.usage(core.executor.layout)
    pool_rows = {
        "held": f"{usage.num_used_blocks} blocks, {format_bytes(usage.used_bytes)}",
        "cached": f"{usage.num_cached_blocks} blocks, {format_bytes(usage.cached_bytes)}",
        "empty": f"{usage.num_empty_blocks} blocks, {format_bytes(usage.empty_bytes)}",
        "map": f"{pool_map(pool)}  (# held, = cached, . empty)",
    }
    pool_view = facts(f"Pool of {pool.num_blocks} blocks", pool_rows)
    explanation = None if session.last is None else session.last.explanation
    if explanation is None:
        return Group(Text("There is no answer to explain yet.", style="dim"), "", pool_view)
    return Group(facts("Last prompt", explanation_rows(explanation, pool.block_size)), "", pool_view)


def explanation_rows(explanation: CacheExplanation, block_size: int) -> dict[str, str]:
    """Returns the length of the prefix match, why it ended, and a map of the prompt's blocks."""
    rows = {
        "reused": f"{explanation.num_reused_tokens} of {explanation.num_tokens} tokens",
        "then": _REASONS[explanation.reason],
    }
    if explanation.diverged_at is not None:
        rows["diverged"] = f"at token {explanation.diverged_at}, in block {explanation.diverged_at // block_size}"
    return rows | {"blocks": f"{prompt_map(explanation, block_size)}  (= reused, + computed; {block_size} tokens each)"}


def prompt_map(explanation: CacheExplanation, block_size: int) -> str:
    """Returns one character per block of the prompt, or per run of blocks if the prompt is long."""
    num_blocks, num_reused = cdiv(explanation.num_tokens, block_size), explanation.num_reused_tokens // block_size
    return _scaled("=" * num_reused + "+" * (num_blocks - num_reused), "=+")


def pool_map(pool: BlockPool) -> str:
    """Returns one character per block up to the last one with content, or per run of blocks: the run's busiest state."""
    states = "".join("#" if block.ref_count else "." if block.hash is None else "=" for block in pool.blocks)
    return _scaled(states.rstrip("."), ".=#")


def num_context_tokens(dialogue: Dialogue) -> int:
    """Returns the tokens of all turns so far, with the start of the next answer; 0 before the first turn."""
    return len(dialogue.conversation.fork().prompt_token_ids()) if dialogue.answers else 0


def _scaled(states: str, order: str) -> str:
    """Returns at most MAP_CELLS characters, each the one of its run that comes last in `order`."""
    per_cell = max(1, cdiv(len(states), MAP_CELLS))
    return "".join(max(states[start : start + per_cell], key=order.index) for start in range(0, len(states), per_cell))
