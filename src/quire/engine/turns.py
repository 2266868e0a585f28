"""Turns: one lock for threads that take it again and again, such as for every step of an answer.

gate   held while waiting    [B]         A has just finished a step and wants another: it queues at the gate
turn   held while working    [A] -> [B]  B, at the gate before it, goes first

A plain lock lets the thread that has just released it take it again before a waiting one wakes up, so a long answer would starve
every other caller.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager

from quire.errors import ExecutorError


class Turns:
    """A lock whose last holder waits behind the threads that wait already. Not reentrant; `is_mine` tells."""

    __slots__ = ("_gate", "_owner", "_process", "_turn")

    def __init__(self) -> None:
        self._owner: int | None = None
        self._renew()

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread has the turn."""
        return self._owner == threading.get_ident()

    def survive_fork(self) -> bool:
        """Returns whether turns go on; False in a process that was forked during a turn, which never ends there.

        A thread that only waited when the process was forked does not exist in the child either, so its place is given up.
        """
        if self._process != os.getpid() and self._owner is None:
            self._renew()
        return self._process == os.getpid()

    def take(self, timeout_s: float) -> bool:
        """Waits for the turn; False when that takes longer than `timeout_s` at the gate, or as long again behind it."""
        if not self._gate.acquire(timeout=timeout_s):
            return False
        try:
            return self._taken(self._turn.acquire(timeout=timeout_s))
        finally:
            self._gate.release()

    def take_if_free(self) -> bool:
        """Takes the turn where no thread has it, without waiting; False also where the calling thread has it already."""
        return self._taken(self._turn.acquire(blocking=False))

    def give(self) -> None:
        """Ends the turn."""
        self._owner = None
        self._turn.release()

    def _renew(self) -> None:
        self._gate = threading.Lock()
        self._turn = threading.Lock()
        self._process = os.getpid()

    def _taken(self, is_taken: bool) -> bool:
        if is_taken:
            self._owner = threading.get_ident()
        return is_taken


class ProcessLock:
    """A reentrant lock for each process that an object lives in: a forked one finds it free.

    Where another thread held it when the process was forked, what it guards is half done there for ever: ExecutorError.
    """

    __slots__ = ("_lock", "_process", "_what")

    def __init__(self, what: str) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._what = what

    @property
    def here(self) -> AbstractContextManager[bool]:
        """The lock of this process."""
        if self._process != os.getpid():
            if not self._lock.acquire(blocking=False):
                raise forked_in_a_step(self._what)
            self._lock.release()
            self._process = os.getpid()
        return self._lock


def forked_in_a_step(what: str) -> ExecutorError:
    """Returns the error for a process in which a step that another thread computed can never end."""
    return ExecutorError(
        "this process was forked while another thread computed a step",
        next_step=f"Start processes with the spawn method, or create {what} in each of them.",
    )
