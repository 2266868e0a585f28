"""Prompts that begin alike share memory: only the first computes the common part."""

from quire import LLM, SamplingParams

document = " ".join(f"Rule {number}: the KV cache is never computed twice." for number in range(1, 9))
questions = ["What is rule one?", "How many rules are there?", "Who computes the cache?"]
params = SamplingParams(temperature=0, max_tokens=8)

with LLM() as llm:
    for question in questions:
        (output,) = llm.generate(f"{document} {question}", params)
        num_prompt = len(output.prompt_token_ids)
        ttft_ms = output.metrics.ttft_s * 1000
        print(f"{question:28} {num_prompt} tokens, {output.num_cached_tokens} from the cache, first token after {ttft_ms:.1f} ms")
        print(f"  {llm.core.scheduler.manager.explain(output.request_id)}")
