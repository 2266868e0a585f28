"""What the compiled core raises, as errors of Quire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quire.errors import ExecutorError, QuireError
from quire.executors.core_types import Core


@contextmanager
def translated_errors(core: Core) -> Iterator[None]:
    """Turns what `core` raises into ExecutorError: arguments it refuses, a second caller, K/V that no quantized format can hold,
    no memory or no threads.

    To be put around calls of the core alone: an error of anything else would be taken for the core's.
    """
    try:
        yield
    except QuireError:
        raise
    except MemoryError as error:
        raise ExecutorError(
            "the operating system refused memory", next_step="Ask for less with kv_memory or max_num_batched_tokens."
        ) from error
    except core.BusyError as error:
        raise ExecutorError(str(error), next_step="Wait until that call returns, or load the model once per thread.") from error
    except core.ForkedError as error:
        raise ExecutorError(
            str(error), next_step="Load the model in this process, or start processes with multiprocessing's 'spawn' method."
        ) from error
    except core.NotFiniteError as error:
        raise ExecutorError(
            str(error), next_step="Pass kv_format='bfloat16', and look for weights that are NaN or infinite."
        ) from error
    except RuntimeError as error:
        raise ExecutorError(f"the native core failed: {error}", next_step="Ask for fewer threads.") from error
    except (ValueError, TypeError, IndexError, OverflowError, BufferError) as error:
        raise ExecutorError(f"the native core refused: {error}", next_step="Report this as a defect.") from error
