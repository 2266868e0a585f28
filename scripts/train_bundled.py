"""Trains the model that ships with Quire, on one CPU core, and writes it with its measured limits.

    python scripts/train_bundled.py

Needs torch and transformers (the torch extra and the dev group). Every draw is seeded: the same machine and library
versions give the same file. Loss is counted on the assistant's tokens only.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bundled_card import write_card
from bundled_chat import END, VOCAB_SIZE, ChatEncoder, Row, save_tokenizer, train_tokenizer
from bundled_corpus import Facts, Speaker, Split, load_facts
from bundled_exam import Exam
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

TARGET = Path(__file__).resolve().parents[1] / "src" / "quire" / "models" / "bundled"
MAX_CONTEXT = 1024
TOKENS_PER_STEP = 2048
ROW_LENGTHS = (48, 128, 320, 1024)
ROW_SHARES = (0.40, 0.25, 0.20, 0.15)
STATEMENT_SHARE = 0.08  # of the shortest rows: plain sentences, so that completion without a chat works too
WARMUP_STEPS = 100
PEAK_RATE = 3e-3
SEED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """token_ids and is_answer [B, T]; rows are padded on the right, where causal attention never looks."""

    token_ids: torch.Tensor
    is_answer: torch.Tensor


def batches(facts: Facts, encoder: ChatEncoder, num_steps: int) -> Iterator[Batch]:
    """Yields new conversations, rows of one length a step: short ones for first questions, long ones for recall."""
    speaker = Speaker(facts, Split.TRAIN, seed=SEED, roughness=1.0)
    rng = np.random.default_rng(SEED)
    for _ in range(num_steps):
        length = int(rng.choice(ROW_LENGTHS, p=ROW_SHARES))
        num_statements = int(STATEMENT_SHARE * TOKENS_PER_STEP / length) if length == min(ROW_LENGTHS) else 0
        rows = [encoder.statement(speaker.statement()) for _ in range(num_statements)]
        rows += [encoder.conversation(speaker, length) for _ in range(TOKENS_PER_STEP // length - num_statements)]
        yield pad(rows)


def pad(rows: list[Row]) -> Batch:
    """Returns the rows as one batch."""
    shape = (len(rows), max(len(row.token_ids) for row in rows))
    token_ids, is_answer = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    for index, row in enumerate(rows):
        token_ids[index, : len(row.token_ids)] = torch.tensor(row.token_ids)
        is_answer[index, : len(row.is_answer)] = torch.tensor(row.is_answer)
    return Batch(token_ids=token_ids, is_answer=is_answer)


def build_model(eos_token_id: int) -> LlamaForCausalLM:
    """Returns the untrained model: about a million parameters in the shape of today's large ones."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=384,
        max_position_embeddings=MAX_CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos_token_id,
        pad_token_id=eos_token_id,
    )
    return LlamaForCausalLM(config)


def answer_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Returns the mean cross-entropy of the answer tokens; the head runs on the rows before them only."""
    hidden = model.model(input_ids=batch.token_ids).last_hidden_state[:, :-1]
    wanted = batch.is_answer[:, 1:]
    return cross_entropy(model.lm_head(hidden[wanted]), batch.token_ids[:, 1:][wanted])


def learning_rate(step: int, num_steps: int) -> float:
    """Returns the rate of a step: a short warm-up, then a cosine down to zero."""
    if step < WARMUP_STEPS:
        return PEAK_RATE * (step + 1) / WARMUP_STEPS
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (num_steps - WARMUP_STEPS)))


def train(model: LlamaForCausalLM, stream: Iterator[Batch], num_steps: int) -> None:
    """Teacher forcing with AdamW; the bar shows a running mean of the loss."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    norms = [weight for weight in model.parameters() if weight.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    mean = math.log(VOCAB_SIZE)
    columns = (TextColumn("step"), BarColumn(), TextColumn("{task.completed}/{task.total}  loss {task.fields[loss]:.4f}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("train", total=num_steps, loss=mean)
        for step, batch in enumerate(stream):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, num_steps)
            loss = answer_loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            mean += 0.05 * (loss.item() - mean)
            progress.update(task, advance=1, loss=mean)


def export(model: LlamaForCausalLM, directory: Path, eos_token_id: int) -> None:
    """Writes config.json, generation_config.json and the weights rounded to bfloat16."""
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=eos_token_id, pad_token_id=eos_token_id)
    model.to(torch.bfloat16).save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)


def main() -> None:
    """Trains, exports, examines what was exported, and writes the model card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="training steps of 2048 tokens")
    parser.add_argument("--out", type=Path, default=TARGET, help="directory of the finished model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    started = time.perf_counter()

    facts = load_facts()
    tokenizer = train_tokenizer(Speaker(facts, Split.TRAIN, seed=SEED, roughness=0.5), num_turns=40_000)
    eos_token_id = tokenizer.get_vocab()[END]
    encoder = ChatEncoder(tokenizer)
    model = build_model(eos_token_id)
    train(model, batches(facts, encoder, options.steps), options.steps)

    options.out.mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer, options.out, MAX_CONTEXT)
    exam = Exam(facts, encoder)
    before = exam.marks(model.eval())
    export(model, options.out, eos_token_id)
    console = Console()
    console.print(f"trained in {time.perf_counter() - started:.0f} s")
    report = exam.report(options.out, before)
    console.print(report.table())
    write_card(report, options.out, num_parameters=model.num_parameters(), num_tokens=options.steps * TOKENS_PER_STEP)


if __name__ == "__main__":
    main()
