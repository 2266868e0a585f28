"""Writes the corpus of the bundled model: `python -m scripts.bundled.corpus corpus.jsonl --tokens 40000000 --seed 1`.

Chunk n of a seed is always the same conversations, so the file does not depend on the number of processes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from random import Random

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from scripts.bundled.conversation import MESSAGE_TOKENS, Message, conversation, estimate_tokens, messages_of, told_and_asked
from scripts.bundled.fillers import SKILLS
from scripts.bundled.mix import GENERAL, MIXES, Mix
from scripts.bundled.plain import plain_text
from scripts.bundled.skill import Language, Split

CORPUS_VERSION = "3"
PLAIN_SHARE = 0.04
CHUNK_CONVERSATIONS = 500


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes conversations, one JSON object a line, until there are about enough tokens."""
    parser = argparse.ArgumentParser(description="Writes the corpus of the bundled model.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--tokens", type=int, default=40_000_000, help="about how many tokens to write")
    parser.add_argument("--mix", choices=tuple(MIXES), default=GENERAL.name, help="in which proportions")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    columns = (
        TextColumn("corpus"),
        BarColumn(),
        TextColumn("{task.completed:.1f} of {task.total:.0f} M tokens"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress, options.path.open("w", encoding="utf-8") as file:
        task = progress.add_task("corpus", total=options.tokens / 1e6)
        lines_of = partial(corpus_lines, options.seed, options.mix)
        for lines, num_tokens in _chunks_until(options.tokens, lines_of, options.processes):
            file.writelines(lines)
            progress.advance(task, num_tokens / 1e6)


def chunk(seed: int, index: int, mix: Mix = GENERAL) -> list[list[Message]]:
    """Returns the conversations of one chunk."""
    rng = Random(f"{CORPUS_VERSION}:{seed}:{index}")
    return [conversation(rng, mix) for _ in range(CHUNK_CONVERSATIONS)]


def corpus_lines(seed: int, mix: str, index: int) -> tuple[list[str], float]:
    """Returns the JSON lines of one chunk, conversations and plain texts, and about how many tokens they hold."""
    conversations = chunk(seed, index, MIXES[mix])
    rng = Random(f"plain:{CORPUS_VERSION}:{seed}:{index}")
    texts = [plain_text(rng) for _ in range(round(PLAIN_SHARE * CHUNK_CONVERSATIONS))]
    documents = [*({"messages": messages} for messages in conversations), *({"text": text} for text in texts)]
    lines = [json.dumps(document, ensure_ascii=False) + "\n" for document in documents]
    num_tokens = sum(conversation_tokens(messages) for messages in conversations)
    return lines, num_tokens + sum(estimate_tokens(text) for text in texts)


def conversation_tokens(messages: Sequence[Message]) -> float:
    """Returns about how many tokens a conversation holds."""
    return sum(estimate_tokens(message["content"]) + MESSAGE_TOKENS for message in messages)


def tokenizer_texts(seed: int, num_texts: int) -> Iterator[str]:
    """Yields texts to train a tokenizer on, without random symbols: a third capitals, a third facts, a third other skills."""
    rng = Random(f"tokenizer:{CORPUS_VERSION}:{seed}")
    others = [name for name in GENERAL.alone if name not in ("capitals", "symbols")]
    for index in range(num_texts):
        language = rng.choice(tuple(Language))
        if index % 3 == 0:
            pair = [rng.choice(SKILLS["capitals"]).exchange(rng, language, Split.TRAIN)]
        elif index % 3 == 1:
            pair = told_and_asked(rng, language)
        else:
            pair = [rng.choice(SKILLS[rng.choice(others)]).exchange(rng, language, Split.TRAIN)]
        yield "\n".join(message["content"] for message in messages_of(pair))


def _chunks_until(
    num_tokens: int, lines_of: Callable[[int], tuple[list[str], float]], num_processes: int
) -> Iterator[tuple[list[str], float]]:
    """Yields chunks in order until they hold enough tokens."""
    written = 0.0
    with get_context("spawn").Pool(num_processes) as pool:
        for lines, chunk_tokens in pool.imap(lines_of, count()):
            yield lines, chunk_tokens
            written += chunk_tokens
            if written >= num_tokens:
                return


if __name__ == "__main__":
    main()
