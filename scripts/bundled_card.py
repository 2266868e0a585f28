"""The model card: what the bundled model is, what it measured, and what it cannot do."""

from __future__ import annotations

from pathlib import Path

from bundled_exam import NUM_QUESTIONS, Paper, Report

CARD = """\
# The small bundled model of Quire

It makes `quire run "What is the capital of France?"` work without a download, and multi-turn chats show the KV cache.
It is a demonstration: do not rely on its answers.

| | |
|---|---|
| shape | Llama: {num_parameters:,} parameters, 4 layers, hidden 128, 4 query and 2 KV heads of 32, FFN 384, tied head |
| context | 1024 tokens |
| tokenizer | byte-level BPE, 2048 entries, single digits; encodes any UTF-8 |
| weights | bfloat16, {num_bytes:,} bytes |
| training | {num_tokens:,} tokens of generated conversations, loss on the assistant's tokens, one CPU core |
| made by | `python scripts/train_bundled.py` (`scripts/bundled_facts.json` holds every fact; no text was downloaded) |
| licence | Apache-2.0, as Quire |

## Measured

Share of answers that are right to the last character with greedy decoding, {num_questions} questions each. "New" phrasings,
names and sums do not occur in training; "rough" ones lose capitals, full stops or a letter at random.

{table}

{rounding}

## Limits

* It knows about 120 capitals, sums up to 30 + 30, and two dozen sentences about itself and inference.
* It says "I do not know." about other things where it notices; where it does not notice, it answers something wrong.
  A question far from the phrasings of its corpus can get the answer of a similar one.
* It recalls only the kinds of facts it was taught: name, favourite colour, a number, home town, pet. Rare names may be
  spelt wrong.
* English, and a few sentences of Chinese. Nothing beyond 1024 tokens.
* Use temperature 0. It was not trained for safety; it can say only what its corpus says.
"""


def write_card(report: Report, directory: Path, *, num_parameters: int, num_tokens: int) -> None:
    """Writes README.md beside the weights."""
    lines = ["| skill | " + " | ".join(paper.value for paper in Paper) + " |", "|---|" + "---:|" * len(Paper)]
    lines += ["| " + " | ".join(row) + " |" for row in report.rows()]
    text = CARD.format(
        num_parameters=num_parameters,
        num_bytes=(directory / "model.safetensors").stat().st_size,
        num_tokens=num_tokens,
        num_questions=NUM_QUESTIONS,
        table="\n".join(lines),
        rounding=report.rounding_sentence(),
    )
    (directory / "README.md").write_text(text, encoding="utf-8")
