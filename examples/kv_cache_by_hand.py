"""Prefill once, then decode one token at a time: the loop every engine hides, with its KV cache in your hands."""

import time

import numpy as np

import quire

model = quire.load_model(executor="auto")
prompt = "What is the capital of France?"
input_ids = np.array([model.tokenizer.encode(prompt)])
NUM_TOKENS = 24


def generate(use_cache: bool) -> tuple[list[int], float]:
    start = time.perf_counter()
    logits, past_kvs = model(input_ids, past_kvs=None, use_cache=use_cache)  # prefill: O(L^2), once
    tokens = [int(logits[0, -1].argmax())]
    while len(tokens) < NUM_TOKENS:
        if use_cache:  # decode: one new row attends to the cache, O(L)
            logits, past_kvs = model([tokens[-1:]], past_kvs=past_kvs, use_cache=True)
        else:  # recompute everything, O(L^2) again
            logits, past_kvs = model([[*input_ids[0], *tokens]], use_cache=False)
        tokens.append(int(logits[0, -1].argmax()))
    if past_kvs is not None:
        keys, values = past_kvs[0]
        print(f"cache: {len(past_kvs)} layers, {past_kvs.num_tokens} tokens; layer 0 K {keys.shape}, V {values.shape}")
    return tokens, time.perf_counter() - start


with_cache, cached_s = generate(use_cache=True)
without_cache, recomputed_s = generate(use_cache=False)
print(prompt, "->", model.tokenizer.decode(with_cache))
print("same tokens:", with_cache == without_cache)
print(f"with cache {cached_s * 1000:.0f} ms, without {recomputed_s * 1000:.0f} ms")
