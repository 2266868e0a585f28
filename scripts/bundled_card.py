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

* The table is what it can do; a row far below 100 % is not a skill. In the first version of these weights recall is such
  a row: colours, pets and single digits come back, while names, longer numbers and towns are often garbled, even when
  it repeats them at once. Its yes-or-no verdicts on capitals are no better than a coin, though the capital it adds is
  mostly right.
* Sums of two numbers up to 30 are memorised rather than understood: of the pairs left out of training it gets about
  a third wrong. "What is 2 + 3?" is such a pair, and it answers 6.
* Capital letters throughout can mislead it: "WHAT IS THE CAPITAL OF FRANCE?" gets Dublin.
* It says "I do not know." about other things where it notices; where it does not notice, it answers something wrong.
  A question far from the phrasings of its corpus can get the answer of a similar one ("asdf qwer" gets a capital).
* What it says about its own skills is a sentence from its corpus, not a measurement.
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
