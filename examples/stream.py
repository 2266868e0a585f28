"""A conversation whose answers appear token by token; Ctrl-C ends an answer and keeps what was computed."""

from quire import LLM, SamplingParams

params = SamplingParams(temperature=0, max_tokens=64)

with LLM() as llm:
    conversation = llm.conversation()
    for question in ("What is the capital of Italy?", "And what is a KV cache?"):
        conversation.add_user(question)
        print(f"> {question}")
        answer = []
        for delta in llm.stream(conversation.prompt_token_ids(), params):
            print(delta.outputs[0].text, end="", flush=True)
            answer.extend(delta.outputs[0].token_ids)
        conversation.add_assistant(answer)
        ttft_ms = (delta.metrics.ttft_s or 0.0) * 1000
        num_prompt = len(delta.prompt_token_ids)
        print(f"\n  [{num_prompt} prompt tokens, {delta.num_cached_tokens} from the cache, first token after {ttft_ms:.1f} ms]")
