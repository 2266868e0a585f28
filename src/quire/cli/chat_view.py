"""The notes below an answer, and the tables and block maps of `/stats` and `/cache`."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from quire.cli.chat_session import MAKE_ROOM, ChatSession, Dialogue
from quire.cli.display import facts, show_note
from quire.cli.explain_view import explanation_view, scaled
from quire.cli.follow_stream import Answer, end_line, note_of_full_context
from quire.cli.ledger_view import LedgerView
from quire.kv.pool import BlockPool
from quire.units import format_bytes, format_rate


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
    """Returns what the prefix cache did for the last answer and why not more, and what lies in the pool."""
    pool = session.llm.core.scheduler.manager.pool
    tables = list(LedgerView(session.llm.kv_ledger(), session.llm.tokenizer).tables())
    tables.insert(1, facts("Blocks", {"map": f"{pool_map(pool)}  (# held, = cached, . empty)"}))
    explanation = None if session.last is None else session.last.explanation
    if explanation is None:
        return Group(Text("There is no answer to explain yet.", style="dim"), "", *tables)
    return Group(*explanation_view(explanation, pool.block_size), "", *tables)


def pool_map(pool: BlockPool) -> str:
    """Returns one character per block up to the last one with content, or per run of blocks: the run's busiest state."""
    states = "".join("#" if block.ref_count else "=" if block.is_findable else "." for block in pool.blocks)
    return scaled(states.rstrip("."), ".=#")


def num_context_tokens(dialogue: Dialogue) -> int:
    """Returns the tokens of all turns so far, with the start of the next answer; 0 before the first turn."""
    return len(dialogue.conversation.fork().prompt_token_ids()) if dialogue.answers else 0
