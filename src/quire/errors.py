"""Every error Quire raises on purpose.

    QuireError
    +-- ConfigError (ValueError)              an option or a combination of options that cannot work
    +-- ModelError (ValueError)               the model directory as a whole cannot be used
    |   +-- UnknownArchitectureError          config.json names an architecture no family maps
    |   +-- UnsupportedConfigError            a config field asks for something we do not honor
    |   +-- CheckpointError                   weight files: missing, truncated, wrong names or shapes
    |   +-- TokenizerError                    tokenizer files: missing or unreadable
    +-- ModelNotFoundError (FileNotFoundError) no such directory or hub id
    +-- RequestError (ValueError)             this request can never be answered; others are unaffected
    |   +-- EmptyPromptError                  nothing to compute logits from
    |   +-- PromptTooLongError                more tokens than the context holds
    |   +-- CapacityError                     more KV than the pool can ever hold
    |   +-- SamplingError                     sampling parameters that contradict or exceed a limit
    |   |   +-- UnknownParameterError (TypeError) a sampling parameter that does not exist
    |   +-- TemplateError                     a chat template that fails, loops or floods
    |   +-- NotExplainedError                 what the cache did for a request is not known
    +-- NotCopyableError (TypeError)          what owns memory and threads was to be copied or pickled
    +-- DuplicateRequestError (KeyError)      a request id that is already in use
    +-- IntegrityError (RuntimeError)         the engine's own bookkeeping contradicts itself
    +-- ExecutorError (RuntimeError)          the forward pass failed
        +-- ExecutorUnavailableError          the executor asked for is not installed here
        +-- KVBlockError (ValueError)         bytes that are no block of this executor's KV cache
        +-- SampleRowError                    one row of logits from which no token can be drawn

Each says what was wrong, what was given, what the limit is, and what to do next.
The HTTP API adds its ApiError (server/errors.py), and `quire bench serve` its ExchangeError (bench/serve_http.py).
"""

from __future__ import annotations

import copyreg

from quire.values import shown


class QuireError(Exception):
    """Base of all errors raised on purpose.

    `problem` is one sentence without a full stop; `given` and `limit` are shown when they are not None;
    `next_step` is one imperative sentence that tells the user what to do.
    """

    def __init__(self, problem: str, *, next_step: str, given: object = None, limit: object = None) -> None:
        self.problem = problem
        self.next_step = next_step
        self.given = given
        self.limit = limit
        super().__init__(problem)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles the fields: errors travel between processes, which cannot call this signature."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def __str__(self) -> str:
        facts = [f"{name}: {_fact(value)}" for name, value in (("given", self.given), ("limit", self.limit)) if value is not None]
        detail = f" ({'; '.join(facts)})" if facts else ""
        return f"{self.problem}{detail}. {self.next_step}".encode(errors="backslashreplace").decode()


def _fact(value: object) -> str:
    """Returns a fact as text, also an integer that is too long for Python to write down."""
    try:
        return str(value)
    except ValueError:
        return shown(value)


class ConfigError(QuireError, ValueError):
    """An option, or a combination of options, that cannot work."""


class ModelError(QuireError, ValueError):
    """The model directory cannot be used."""


class UnknownArchitectureError(ModelError):
    """`config.json` names an architecture that no family maps."""


class UnsupportedConfigError(ModelError):
    """`config.json` asks for something Quire does not honor."""


class CheckpointError(ModelError):
    """Weight files are missing, truncated, or hold other tensors than the config promises."""


class TokenizerError(ModelError):
    """Tokenizer files are missing or unreadable."""


class ModelNotFoundError(QuireError, FileNotFoundError):
    """No such model directory or hub id."""


class RequestError(QuireError, ValueError):
    """This request can never be answered; other requests are unaffected."""


class EmptyPromptError(RequestError):
    """A prompt of no tokens: there is nothing to compute logits from."""


class PromptTooLongError(RequestError):
    """A prompt of more tokens than the context holds."""


class CapacityError(RequestError):
    """A request that needs more KV than the pool can ever hold."""


class SamplingError(RequestError):
    """Sampling parameters that contradict each other or exceed a limit."""


class UnknownParameterError(SamplingError, TypeError):
    """A sampling parameter that does not exist, or one without its name."""


class TemplateError(RequestError):
    """A chat template that fails, loops, or produces too much."""


class NotExplainedError(RequestError):
    """What the cache did for a request is not known: it waits, was never let in, is forgotten, or never was."""


class NotCopyableError(QuireError, TypeError):
    """What owns memory, threads or KV blocks was to be copied or pickled."""


class DuplicateRequestError(QuireError, KeyError):
    """A request id that is already in use."""

    __str__ = QuireError.__str__


class IntegrityError(QuireError, RuntimeError):
    """The engine's own bookkeeping contradicts itself, or its steps were called out of order: a defect, not a user's mistake."""


class ExecutorError(QuireError, RuntimeError):
    """The forward pass failed."""


class ExecutorUnavailableError(ExecutorError):
    """The executor asked for is not installed on this machine."""


class KVBlockError(ExecutorError, ValueError):
    """Bytes that are not a block of this executor's KV cache: of another version, order, shape or length."""


class SampleRowError(ExecutorError):
    """No token can be drawn from row `row_idx` of a step's logits; the other rows are unaffected."""

    def __init__(self, problem: str, *, row_idx: int, next_step: str, given: object = None) -> None:
        super().__init__(problem, next_step=next_step, given=given)
        self.row_idx = row_idx


def is_failure(error: BaseException) -> bool:
    """Whether an exception reports that something failed, and does not end a program, a generator or a task.

    A panic in a Rust library is such a failure, although it is no `Exception`.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        return False
    return isinstance(error, Exception) or all(kind.__name__ != "CancelledError" for kind in type(error).__mro__)


_MAX_MESSAGE_CHARS = 500


def failure_message(error: BaseException) -> str:
    """Returns what the owner of a request reads about an exception that ended it, at most 500 characters.

    It is the text of an error of Quire's own, or the kind and text of any other.
    """
    text = str(error) if isinstance(error, QuireError) else f"{type(error).__name__}: {error}"
    return text[:_MAX_MESSAGE_CHARS]


def failure_of(message: str) -> ExecutorError:
    """Returns the error to raise for a request that ended with `message`; advice that the message ends with is not doubled."""
    problem, _, next_step = message.removesuffix(".").rpartition(". ")
    if not problem or not message.endswith("."):
        return ExecutorError(message.removesuffix("."), next_step="Try again, or check the model's weights.")
    return ExecutorError(problem, next_step=f"{next_step}.")


def defect(problem: str) -> IntegrityError:
    """Returns the error for bookkeeping that contradicts itself."""
    return IntegrityError(problem, next_step="Report this as a defect with the steps that led to it.")
