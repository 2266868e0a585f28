"""Same weights, same tokens: teacher forcing in one pass beside token by token. `docs/training.md` explains the numbers."""

import time

try:
    import torch
except ImportError:
    raise SystemExit("This example computes as training does, with torch: run `pip install 'quire[torch]'` first.") from None

from quire.bench.cost import chunk_work
from quire.executors.torch_decoder import Decoder
from quire.models.bundled import directory
from quire.models.checkpoint import load_checkpoint
from quire.text.tokenizer import Tokenizer

T = 192
checkpoint = load_checkpoint(directory())
model = Decoder.from_weights(checkpoint.spec, checkpoint.weights)
text = " ".join(f"Number {number} comes after {number - 1}." for number in range(1, T))
ids = torch.tensor([Tokenizer.from_directory(directory()).encode(text)[:T]])


def forward(steps: list[tuple[int, int]], use_cache: bool) -> torch.Tensor:
    rows, past_kvs = list[torch.Tensor](), None
    for start, stop in steps:  # a step computes tokens [start, stop) and contributes the rows that no step had before
        logits, past_kvs = model(ids[:, start:stop], past_kvs=past_kvs, use_cache=use_cache)
        rows.append(logits[0, sum(len(row) for row in rows) - start :])
    return torch.cat(rows)  # [T, V]


expected = forward([(0, T)], use_cache=False).detach()
all_at_once, growing, one_each = [(0, T)], [(0, i + 1) for i in range(T)], [(i, i + 1) for i in range(T)]
for name, steps, use_cache in (("one pass", all_at_once, False), ("no cache", growing, False), ("cache", one_each, True)):
    flops = 2 * sum(chunk_work(model.spec, i, j, j - i).total for i, j in steps)
    began = time.perf_counter()
    with torch.no_grad():
        difference = (forward(steps, use_cache) - expected).abs().max()
    shown = f"{flops / 1e9:9.2f} GFLOP {time.perf_counter() - began:8.3f} s  logits differ by at most {difference:.0e}"
    print(f"{name:10} {len(steps):4} passes {shown}")
