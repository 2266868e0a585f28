"""Writes the conversations that `quire bench quality` reads by default: `python -m scripts.bundled.held_out`.

Two long chats in each language, in phrasings and values that training never drew, one a line, as the bundled model's chat
template writes them. What is written depends on the seed and the generator alone: run it again when the generator has changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from quire.bench.held_out import FILE
from quire.models import bundled
from quire.text.chat import ChatTemplate
from quire.text.tokenizer import Tokenizer
from scripts.bundled.conversation import exchanges, messages_of
from scripts.bundled.mix import Length
from scripts.bundled.skill import Language, Split

SEED = 11
CHATS_A_LANGUAGE = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the file and says how many tokens the bundled tokenizer makes of it."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bundled.held_out", description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, nargs="?", default=FILE)
    options = parser.parse_args(arguments)
    tokenizer = Tokenizer.from_directory(bundled.directory())
    texts = list(held_out_texts(tokenizer))
    options.path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    print(f"{len(texts)} chats, {sum(len(tokenizer.encode(text)) for text in texts)} tokens")


def held_out_texts(tokenizer: Tokenizer) -> Iterator[str]:
    """Yields the chats, the languages in turn; none holds a line break."""
    template = ChatTemplate(tokenizer.chat_template or "", special_tokens=tokenizer.named_tokens)
    rng = Random(SEED)
    for _ in range(CHATS_A_LANGUAGE):
        for language in Language:
            messages = messages_of(exchanges(rng, Length.LONG, (language,), split=Split.EXAM))
            yield template.render(messages, add_generation_prompt=False)


if __name__ == "__main__":
    main()
