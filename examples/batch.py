"""Many questions at once: one call, answers in order, each the same as if it had been asked alone."""

from quire import LLM, SamplingParams

questions = ["What is the capital of France?", "What is the capital of Spain?", "What is a KV cache?"]
conversations = [[{"role": "user", "content": question}] for question in questions]
params = SamplingParams(temperature=0, max_tokens=64)

with LLM() as llm:
    together = llm.chat(conversations, params)
    for question, output in zip(questions, together, strict=True):
        answer = output.outputs[0]
        print(f"{question}\n  {answer.text}  ({len(answer.token_ids)} tokens, {answer.finish_reason.value})")
    alone = [llm.chat(conversation, params)[0] for conversation in conversations]
    print("same tokens alone:", [a.outputs[0].token_ids for a in alone] == [t.outputs[0].token_ids for t in together])
