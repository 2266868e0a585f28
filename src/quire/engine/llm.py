"""`LLM`: the engine for a program that waits for its answers. The shape is that of vLLM's offline API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from quire.config import EngineConfig
from quire.engine.chats import Messages
from quire.engine.core import EngineCore
from quire.engine.explaining import read_request_id, require_explanation
from quire.engine.frontend import Frontend, PriorityOfAll, SamplingParamsOfAll
from quire.engine.kv_ledger import kv_ledger
from quire.engine.loading import load_engine
from quire.engine.options import EngineOptions
from quire.engine.progress_bar import AnswerProgress
from quire.engine.prompts import Prompt, Prompts, ScoreContext, Submission, read_switch
from quire.engine.readers import Deltas, FinalOutputs
from quire.engine.scores import Score, score_of
from quire.engine.shared_core import SharedCore
from quire.engine.uncopyable import Uncopyable
from quire.kv.explain import CacheExplanation, with_texts
from quire.kv.holdings import KVLedger
from quire.models.spec import ModelSpec
from quire.request import RequestOutput, SamplingParams
from quire.text.conversation import Conversation
from quire.text.template_inputs import TemplateInputs
from quire.text.tokenizer import Tokenizer


class LLM(Uncopyable):
    """A model in memory with its KV cache. Use it as a context manager or call `close()`.

    Threads may share it: their calls take turns step by step, and what they ask is computed together. A conversation, or one
    stream, belongs to one thread at a time.

    `model` is a directory, a GGUF file, a Hugging Face id, or None for the bundled model; options are those of `EngineOptions`.
    Raises ModelNotFoundError, ModelError, ConfigError or ExecutorUnavailableError. Nothing is printed.
    """

    def __init__(self, model: str | Path | None = None, **options: Unpack[EngineOptions]) -> None:
        loaded = load_engine(model, options)
        self.config: EngineConfig = loaded.config
        self.spec: ModelSpec = loaded.core.executor.spec
        self.tokenizer: Tokenizer = loaded.tokenizer
        self._shared = SharedCore(loaded.core)
        self._frontend = Frontend(self.tokenizer)

    # -- asking ----------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts,
        sampling_params: SamplingParamsOfAll = None,
        *,
        priority: PriorityOfAll = 0,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Continues every prompt and returns one output per prompt, in their order.

        Special tokens that a text writes out, such as <|im_end|>, become tokens: what users send belongs into `chat`.

        A prompt is a text, token ids (integers or an array of them), or a dictionary with either "prompt" or
        "prompt_token_ids" and perhaps "cache_salt", which keeps its cached prefix apart. `sampling_params` and `priority`
        (less is served earlier) are one for all or one each. Without `sampling_params` it is `SamplingParams()`: 16 tokens at
        temperature 1, whatever the model's generation_config.json says. Raises RequestError before anything runs if any prompt
        can never be answered. A failure while running ends only its request, with FinishReason.ERROR. Ctrl-C ends all of them.
        `use_tqdm` draws a progress bar on standard error meanwhile, or one line at the end where that is no terminal.
        """
        is_watched = read_switch("use_tqdm", use_tqdm)
        return self._answers(self._frontend.prompts(prompts, sampling_params, priority), is_watched=is_watched)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParamsOfAll = None,
        *,
        priority: PriorityOfAll = 0,
        use_tqdm: bool = False,
        **inputs: Unpack[TemplateInputs],
    ) -> list[RequestOutput]:
        """Answers one conversation or many through the model's chat template, otherwise as `generate`.

        A message is {"role": ..., "content": ...}, the content a text or OpenAI's list of text parts, which goes to the
        template as parts where it reads them and joined by spaces elsewhere. The text of special tokens in a message stays
        text, and forges no turn. `inputs` are those of `TemplateInputs`: `tools`, `documents`, `variables` (such as
        enable_thinking) and the name of a `chat_template` of the model's. Without `sampling_params` it is
        `SamplingParams(max_tokens=None)`: temperature 1, and an answer may fill the context. Raises TemplateError where the
        model has no template, or its template fails or would ignore an input.
        """
        is_watched = read_switch("use_tqdm", use_tqdm)
        return self._answers(self._frontend.chats(messages, sampling_params, priority, inputs), is_watched=is_watched)

    def conversation(self, **inputs: Unpack[TemplateInputs]) -> Conversation:
        """Returns an empty conversation of many turns whose tokens only grow, so that each turn finds the last in the cache.

        Add messages, pass its `prompt_token_ids()` to `generate` or `stream`, and give the answer's tokens back to it.
        `inputs` are those of `chat`, the same in every turn; raises TemplateError for one that the template would ignore.
        """
        return self._frontend.conversation(inputs)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, priority: int = 0
    ) -> Iterator[RequestOutput]:
        """Yields what each step adds: the new text and token only; a last one adds nothing and has `finished` set.

        Arguments and defaults are those of `generate`. Checks the request at once, computes while it is iterated. Closing
        the iterator early ends the request, frees its blocks and keeps the computed prefix.
        """
        submission = self._frontend.prompt(prompt, sampling_params, priority)
        self._shared.check([submission])
        return self._deltas(submission)

    def score(self, prompt: Prompt, *, given: ScoreContext | None = None, num_candidates: int = 0) -> Score:
        """Returns the teacher-forced log-probability of every token of a text or of token ids, computed chunk by chunk.

        `given` is context that comes first and is not scored, a text before a text or token ids before token ids: its
        blocks come from the cache where they are, so many continuations of one prompt compute the prompt once. A text
        without it is computed whole, since the cache holds no logits; either way later requests find its blocks.
        The numbers do not depend on the cache. Two texts are encoded as one, and a token that covers the seam is scored.

        `num_candidates` adds that many of the most likely tokens at each position. Logits exist a slice of rows at a time
        (`MAX_LOGIT_BYTES`). Room for one more token must be left. Raises RequestError, or ExecutorError for logits that
        are not finite.
        """
        submission = self._frontend.score(prompt, given, num_candidates)
        return score_of(self._answers([submission])[0], submission.prompt.num_context_tokens)

    def explain(self, output: RequestOutput | str) -> CacheExplanation:
        """Returns what the cache did for a request, by its output or id, each time that it was let in.

        Of several completions it is the first one's; the others have ids ID/1, ID/2, ... Of other salts nothing is ever said.
        Raises NotExplainedError for a request that waits, never began, is forgotten, or never was.
        """
        request_id = read_request_id(output)
        found = require_explanation(self._shared.explain(request_id), request_id, self._frontend.has_issued)
        return with_texts(found, self.tokenizer.token_text)

    def kv_ledger(self) -> KVLedger:
        """Returns what every request, tenant and prefix holds of the KV memory between two steps."""
        return self._shared.look(kv_ledger)

    # -- life ------------------------------------------------------------------------

    @property
    def core(self) -> EngineCore:
        """The engine underneath: scheduler, KV cache manager and executor, to look at."""
        return self._shared.core

    def close(self) -> None:
        """Ends everything that runs, in other threads too, and lets go of the model's memory; a second call does nothing."""
        self._shared.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- inside ----------------------------------------------------------------------

    def _answers(self, submissions: Sequence[Submission], *, is_watched: bool = False) -> list[RequestOutput]:
        """Returns the final output of every submission. What ends the call early, Ctrl-C included, ends its requests only."""
        request_ids = [submission.request_id for submission in submissions]
        with AnswerProgress(len(submissions), is_shown=is_watched) as progress:
            outputs = FinalOutputs(request_ids, progress.note)
            try:
                self._shared.submit(self._shared.check(submissions), outputs)
                while not outputs.is_ready:
                    self._shared.step(outputs)
                return outputs.take()
            finally:
                self._shared.leave(request_ids)

    def _deltas(self, submission: Submission) -> Iterator[RequestOutput]:
        """Yields what each step adds to a submission, its final output without anything new last."""
        groups = self._shared.check([submission])
        deltas = Deltas(groups[0])
        try:
            self._shared.submit(groups, deltas)
            while not deltas.is_over:
                while not deltas.is_ready:
                    self._shared.step(deltas)
                yield deltas.take()
        finally:
            self._shared.leave([submission.request_id])
