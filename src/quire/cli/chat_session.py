"""A chat in progress: one model, named branches of the conversation, and the statistics of the last answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from quire.cli.follow_stream import Answer, AnswerStats, follow, raise_failure, stats_of
from quire.cli.load import LoadedModel, start_conversation
from quire.engine.llm import LLM
from quire.errors import CapacityError, NotExplainedError, PromptTooLongError, RequestError
from quire.kv.explain import CacheExplanation
from quire.request import RequestOutput
from quire.text.conversation import Conversation

MAIN_BRANCH = "main"
MAKE_ROOM = "In this chat, /undo forgets the last turn and /reset starts over."


@dataclass(slots=True)
class Dialogue:
    """A conversation and its answers as they were generated, one per user turn: what a saved file contains."""

    conversation: Conversation
    system: str | None = None
    answers: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def start(cls, llm: LLM, system: str | None) -> Dialogue:
        """Returns a dialogue without turns; raises TemplateError if the model has no chat template."""
        conversation = start_conversation(llm)
        if system is not None:
            conversation.add_system(system)
        return cls(conversation, system)

    def keep(self, token_ids: list[int]) -> None:
        """Adds the answer to the last user turn."""
        self.conversation.add_assistant(token_ids)
        self.answers = (*self.answers, tuple(token_ids))

    @property
    def last_question(self) -> str:
        """The text of the last user turn."""
        return next(message["content"] for message in reversed(self.conversation.messages) if message["role"] == "user")

    def undo(self) -> None:
        """Forgets the last turn and its answer; raises RequestError if there is none."""
        self.conversation.undo()
        self.answers = self.answers[:-1]

    def fork(self) -> Dialogue:
        """Returns an independent dialogue that continues from here; the cache holds the tokens of both once."""
        return Dialogue(self.conversation.fork(), self.system, self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class LastAnswer:
    """The statistics of the newest answer, and what the prefix cache saved (None if unknown)."""

    stats: AnswerStats
    explanation: CacheExplanation | None


@dataclass(slots=True)
class ChatSession:
    """The state that the commands of a chat read and change."""

    loaded: LoadedModel
    dialogue: Dialogue
    branch: str = MAIN_BRANCH
    last: LastAnswer | None = None
    has_ended: bool = False
    _others: dict[str, Dialogue] = field(default_factory=dict)

    @property
    def llm(self) -> LLM:
        return self.loaded.llm

    @property
    def branches(self) -> dict[str, Dialogue]:
        """Every branch by name, the current one included."""
        return self._others | {self.branch: self.dialogue}

    def ask(self, text: str, write: Callable[[str], None]) -> Answer:
        """Answers a turn and keeps both. A turn without any answer, because of a failure or an early Ctrl-C, is forgotten.

        Raises RequestError if the turn cannot be answered and ExecutorError if answering failed. If the conversation fills the
        context, the error names the commands that shorten it.
        """
        conversation, num_answers = self.dialogue.conversation, len(self.dialogue.answers)
        conversation.add_user(text)
        try:
            answer = follow(self._stream(conversation), write)
            raise_failure(answer)
            if answer.token_ids:
                self.dialogue.keep(answer.token_ids)
        finally:
            if len(self.dialogue.answers) == num_answers:
                conversation.undo()
        self._note(answer)
        return answer

    def retry(self, write: Callable[[str], None]) -> Answer:
        """Answers the last turn again and replaces its answer; without a new answer, the old one stays.

        Raises RequestError if there is no turn, otherwise as `ask`.
        """
        before = self.dialogue
        if not before.answers:
            raise RequestError("there is no answer to try again", next_step="Ask something first.")
        self.dialogue = before.fork()
        text = self.dialogue.last_question
        self.dialogue.undo()
        num_left = len(self.dialogue.answers)
        try:
            return self.ask(text, write)
        finally:
            if len(self.dialogue.answers) == num_left:
                self.dialogue = before

    def switch(self, name: str) -> bool:
        """Switches to a branch, created from here if it is new; returns whether it is new."""
        if name == self.branch:
            raise RequestError("this is the current branch", given=name, next_step="Choose another name.")
        is_new = name not in self._others
        target = self.dialogue.fork() if is_new else self._others.pop(name)
        self._others[self.branch] = self.dialogue
        self.branch, self.dialogue = name, target
        return is_new

    def restart(self, system: str | None) -> None:
        """Forgets the turns of this branch and gives it another system message."""
        self.dialogue = Dialogue.start(self.llm, system)
        self.last = None

    def _stream(self, conversation: Conversation) -> Iterator[RequestOutput]:
        try:
            return self.llm.stream(conversation.prompt_token_ids(), self.loaded.params)
        except (PromptTooLongError, CapacityError) as error:
            if self.dialogue.answers:
                error.next_step = f"{error.next_step} {MAKE_ROOM}"
            raise

    def _note(self, answer: Answer) -> None:
        stats = stats_of(answer, self.llm.core.executor.layout)
        if stats is None or answer.last is None:
            return
        explanation = None
        with suppress(NotExplainedError):
            explanation = self.llm.explain(answer.last)
        self.last = LastAnswer(stats=stats, explanation=explanation)
