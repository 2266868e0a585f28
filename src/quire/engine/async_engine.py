"""`AsyncEngine`: the engine for a program that answers many at once. One thread computes; coroutines wait for their answers."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from quire.config import EngineConfig, PrefixCache
from quire.engine.chats import Messages
from quire.engine.completion import RequestGroup
from quire.engine.core import EngineCore
from quire.engine.engine_thread import EngineThread, FoundT, LoopReader, ReaderT
from quire.engine.explaining import read_request_id, require_explanation
from quire.engine.frontend import Frontend, PriorityOfAll, SamplingParamsOfAll
from quire.engine.loading import load_engine
from quire.engine.options import EngineOptions
from quire.engine.prompts import Prompt, Prompts, ScoreContext, Submission
from quire.engine.readers import Deltas, FinalOutputs
from quire.engine.scores import Score, score_of
from quire.engine.uncopyable import Uncopyable
from quire.kv.explain import CacheExplanation, with_texts
from quire.models.spec import ModelSpec
from quire.request import RequestOutput, SamplingParams
from quire.text.conversation import Conversation
from quire.text.template_inputs import TemplateInputs
from quire.text.tokenizer import Tokenizer


class AsyncEngine(Uncopyable):
    """A model in memory with its KV cache and a thread that computes. Use it as an async context manager or await `close()`.

    Any number of coroutines, in any event loops and threads, may ask at once; what they ask is computed together, and each
    answer is the one that `LLM` gives. Arguments are those of `LLM`. The constructor loads the model and blocks meanwhile:
    in a running event loop, `await asyncio.to_thread(AsyncEngine, model)`. Texts are tokenized in worker threads of the loop.
    A call that is canceled ends its requests with the step that runs; their computed prefixes stay in the cache.

    If the engine thread crashes, every waiting and every later call raises ExecutorError.
    """

    def __init__(self, model: str | Path | None = None, **options: Unpack[EngineOptions]) -> None:
        loaded = load_engine(model, options)
        self.config: EngineConfig = loaded.config
        self.spec: ModelSpec = loaded.core.executor.spec
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.frontend = Frontend(self.tokenizer)
        self._engine = EngineThread(loaded.core)
        weakref.finalize(self, self._engine.ask_to_stop).atexit = False

    # -- asking ----------------------------------------------------------------------

    async def generate(
        self, prompts: Prompts, sampling_params: SamplingParamsOfAll = None, *, priority: PriorityOfAll = 0
    ) -> list[RequestOutput]:
        """Continues every prompt and returns one output per prompt, in their order, as `LLM.generate`."""
        return await self._answers(lambda: self.frontend.prompts(prompts, sampling_params, priority))

    async def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParamsOfAll = None,
        *,
        priority: PriorityOfAll = 0,
        **inputs: Unpack[TemplateInputs],
    ) -> list[RequestOutput]:
        """Answers one conversation or many through the model's chat template, as `LLM.chat`."""
        return await self._answers(lambda: self.frontend.chats(messages, sampling_params, priority, inputs))

    async def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, priority: int = 0
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yields what each step adds, as `LLM.stream`; the request is checked and begins when the first output is awaited.

        A reader that is slow finds what it missed, and delays no other. `aclose()`, leaving the loop's task canceled, or
        losing the stream ends the request.
        """
        groups = await self._checked(lambda: [self.frontend.prompt(prompt, sampling_params, priority)])
        deltas = Deltas(groups[0])
        try:
            waiting = self._engine.submit(groups, deltas)
            while not deltas.is_over:
                yield (await waiting.until_ready()).take()
        finally:
            self.leave(groups)

    async def score(self, prompt: Prompt, *, given: ScoreContext | None = None, num_candidates: int = 0) -> Score:
        """Returns the teacher-forced log-probability of every token of a text or of token ids, as `LLM.score`."""
        groups = await self._checked(lambda: [self.frontend.score(prompt, given, num_candidates)])
        (output,) = await self._outputs(groups)
        return score_of(output, groups[0].submission.prompt.num_context_tokens)

    def conversation(self, **inputs: Unpack[TemplateInputs]) -> Conversation:
        """Returns an empty conversation of many turns whose tokens only grow, as `LLM.conversation`."""
        return self.frontend.conversation(inputs)

    def abort(self, request_id: str) -> None:
        """Ends a request with the step that runs: its call gets what there is, with FinishReason.ABORT. Never waits."""
        self._engine.routed.inbox.abort(request_id)

    def explain(self, output: RequestOutput | str) -> CacheExplanation:
        """Returns what the cache did for a request, by its output or id, as `LLM.explain`."""
        request_id = read_request_id(output)
        found = require_explanation(self._engine.routed.explain(request_id), request_id, self.frontend.has_issued)
        return with_texts(found, self.tokenizer.token_text)

    def find_explanation(self, request_id: str) -> CacheExplanation | None:
        """Returns the same, or None where it is not known (yet)."""
        found = self._engine.routed.explain(request_id)
        return with_texts(found, self.tokenizer.token_text) if isinstance(found, CacheExplanation) else None

    async def look(self, look: Callable[[EngineCore], FoundT]) -> FoundT:
        """Returns what a function finds in the core between two steps. It holds up the next one, so it must be short."""
        return await self._engine.look(look)

    # -- the parts of a call, for a server that decides between them -------------------

    def check(self, submissions: Sequence[Submission]) -> list[RequestGroup]:
        """Returns what `frontend` has read as groups to `follow`; raises RequestError if any is refused. For any thread."""
        return self._engine.routed.check(submissions)

    def follow(self, groups: Sequence[RequestGroup], reader: ReaderT) -> LoopReader[ReaderT]:
        """Begins checked groups with the next step and returns what the calling coroutine waits for their events with."""
        return self._engine.submit(groups, reader)

    def leave(self, groups: Sequence[RequestGroup]) -> None:
        """Ends those of the groups that still run with the step that runs; their reader gets nothing more. Never waits."""
        self._engine.routed.leave([group.request_id for group in groups])

    @property
    def fingerprint(self) -> bytes | None:
        """The digest of weights, formats and numerics: with the same one, the same seed and prompt mean the same tokens.

        None without a prefix cache: weights are identified only where something is kept under their fingerprint.
        """
        manager = self._engine.routed.core.scheduler.manager
        return manager.fingerprint if manager.prefix_cache is PrefixCache.ON else None

    @property
    def is_alive(self) -> bool:
        """Whether the engine thread runs: until `close()`, or until a step crashes."""
        return self._engine.is_alive

    @property
    def step_s(self) -> float:
        """Seconds since the step that runs began; 0 while there is nothing to compute."""
        return self._engine.step_s

    # -- life ------------------------------------------------------------------------

    @property
    def core(self) -> EngineCore:
        """The engine underneath, to look at while nothing runs: the engine thread changes it with every step."""
        return self._engine.routed.core

    async def close(self) -> None:
        """Ends everything that runs, with RequestError for its callers, and the engine thread; a second call does nothing."""
        await asyncio.to_thread(self._engine.stop)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    # -- inside ----------------------------------------------------------------------

    async def _answers(self, submissions: Callable[[], list[Submission]]) -> list[RequestOutput]:
        return await self._outputs(await self._checked(submissions))

    async def _checked(self, submissions: Callable[[], list[Submission]]) -> list[RequestGroup]:
        """Reads, tokenizes and checks in a worker thread, so that no long text holds up the event loop."""
        self._engine.check_process()
        return await asyncio.to_thread(lambda: self._engine.routed.check(submissions()))

    async def _outputs(self, groups: Sequence[RequestGroup]) -> list[RequestOutput]:
        outputs = FinalOutputs([group.request_id for group in groups])
        try:
            waiting = self._engine.submit(groups, outputs)
            return (await waiting.until_ready()).take()
        finally:
            self.leave(groups)
