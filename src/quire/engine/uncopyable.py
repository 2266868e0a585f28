"""What owns memory, threads or KV blocks has exactly one owner: it is neither copied nor pickled."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex

from quire.errors import NotCopyableError


class Uncopyable:
    """Refuses `copy.copy`, `copy.deepcopy` and `pickle`, which all ask for the parts of an object by one method."""

    __slots__ = ()

    def __reduce_ex__(self, _protocol: SupportsIndex) -> NoReturn:
        name = type(self).__name__
        raise NotCopyableError(
            f"{name} holds memory that only this process has, and can be neither copied nor pickled",
            given=name,
            next_step="Make one in each process from the model's name; outputs and SamplingParams can be pickled.",
        )
