"""Completions of one prompt draw their first tokens from one row of logits: the prompt's last token is computed once for all.

leader     [ the prompt ............... last token ]  -> its first token
others     they wait                                  -> theirs, each with its own seed; then they find the prompt in the cache
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple, Protocol

from quire.kv.table import PrefixMatch
from quire.request import Request, RequestStatus


class Sampling(Protocol):
    """A chunk, as far as it matters here."""

    @property
    def num_sample_rows(self) -> int: ...


class JointDraw(NamedTuple):
    """The requests `others`, which wait, draw their first token from the row of logits that `request_id` draws from."""

    request_id: str
    others: tuple[str, ...]


class FirstDraws:
    """The requests of each group of completions, in the order in which they came. One is first let in and computes the prompt.

    Not without a prefix cache: there each must compute it anyway.
    """

    __slots__ = ("_by_group", "_is_on")

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on
        self._by_group: dict[str, dict[str, Request]] = {}

    def __len__(self) -> int:
        return len(self._by_group)

    def enter(self, request: Request) -> None:
        """Notes a new request, if it is of a group."""
        if self._is_on and request.group_id:
            self._by_group.setdefault(request.group_id, {})[request.request_id] = request

    def leave(self, request: Request) -> None:
        """Forgets a request that has ended."""
        group = self._by_group.get(request.group_id)
        if group is not None and group.pop(request.request_id, None) is not None and not group:
            del self._by_group[request.group_id]

    def wait(self, request: Request, match: PrefixMatch) -> PrefixMatch:
        """Lets a match wait for the request of the same group that computes the prompt: it will draw for both.

        Not where the prompt is cached and that one computes it again because it is scored.
        """
        group = self._by_group.get(request.group_id)
        if group is None or request.output_token_ids:
            return match
        is_cached = match.num_tokens == request.first_logits_at
        for each in group.values():
            is_leader = each.status is RequestStatus.RUNNING and not each.output_token_ids
            if is_leader and not (is_cached and each.needs_prompt_logits):
                return match._replace(waits_for=each.request_id)
        return match

    def joint(self, requests: Sequence[Request], chunks: Sequence[Sampling]) -> tuple[JointDraw, ...]:
        """Returns what is drawn together with the first tokens of the requests of a step, whose chunks are in the same order."""
        leaders: dict[str, Request] = {}  # the first of each group
        for each, chunk in zip(requests, chunks, strict=True):
            if each.group_id and not each.output_token_ids and chunk.num_sample_rows:
                leaders.setdefault(each.group_id, each)
        found = [JointDraw(each.request_id, self._waiting(each)) for each in leaders.values()]
        return tuple(joint for joint in found if joint.others)

    def drawn(self, joint_draws: Sequence[JointDraw], sampled: Container[str]) -> list[Request]:
        """Returns the requests that have drawn their first token while they waited."""
        others = [name for joint in joint_draws for name in joint.others if name in sampled]
        return [group[name] for group in self._by_group.values() for name in others if name in group]

    def _waiting(self, leader: Request) -> tuple[str, ...]:
        group = self._by_group.get(leader.group_id, {}).items()
        return tuple(name for name, each in group if each.status is RequestStatus.WAITING and not each.output_token_ids)
