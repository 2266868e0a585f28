"""A real model out of a real GGUF file: its answers, its tokens, its chat template.

The answers are those of float32 weights; `transformers` gives the same logits within 3e-6 of the largest. At every token the
second likeliest one is at least 0.09 behind, far more than instruction sets differ.
"""

from __future__ import annotations

from quire import LLM, SamplingParams
from support.real_weights import smollm2

ANSWERS = {
    "The capital of France is": " Paris.\n\nThe answer",
    "The opposite of hot is": " cold.\n\nThe answer",
    "1, 2, 3, 4, 5, 6,": " 7, 8,",
    "Water is made of hydrogen and": " helium, with a mass of",
    "def add(a, b):\n    return": " a + b\n\n#",
    "The largest planet in our solar system is": " Jupiter, but it's not",
    "She opened the door and": " stepped into the room. I",
    "The president of the United States lives in the": " White House.\n\nThe",
    "import numpy as": " np\nimport matplotlib.pyplot",
    "Once upon a time, there was a": " small town nestled in the heart",
}
TOKENS = {
    "Hello, world!": [19556, 28, 905, 17],
    "x = 1234  # 56": [104, 446, 216, 33, 34, 35, 36, 216, 907, 216, 37, 38],
    "<|im_start|>user\nnaïve \U0001f600<|im_end|>": [1, 4093, 198, 3546, 46494, 40303, 218, 2],
}


def test_a_real_gguf_model_answers_as_stored() -> None:
    with LLM(smollm2(), dtype="float32", max_context=256) as llm:
        outputs = llm.generate(list(ANSWERS), SamplingParams(temperature=0, max_tokens=6))
        assert {output.prompt: output.outputs[0].text for output in outputs} == ANSWERS
        assert {text: llm.tokenizer.encode(text) for text in TOKENS} == TOKENS
        chat = llm.chat(
            [{"role": "user", "content": "What is the capital of France?"}], SamplingParams(temperature=0, max_tokens=12)
        )
        assert chat[0].outputs[0].text == "The capital of France is Paris."
        assert chat[0].outputs[0].finish_reason == "stop"
