"""How likely does the model find a text? Teacher forcing: every token scored after the tokens before it, in one pass."""

from quire import LLM

with LLM() as llm:
    for text in ("The capital of France is Paris.", "The capital of France is Madrid."):
        score = llm.score(text, num_candidates=1)
        print(f"{text!r}: log-probability {score.total:.2f}, perplexity {score.perplexity:.1f}")
        for token in score.tokens[1:]:
            print(f"  {token.decoded_token!r:>12} {token.logprob:8.3f}  rank {token.rank}")
