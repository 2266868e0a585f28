"""What `quire run` shows in addition to a streamed text: several answers, their log-probabilities, and everything as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire.cli.display import listing, out_console
from quire.cli.explain_view import explanation_json
from quire.cli.follow_stream import Answer, end_line, stats_of, stats_of_all, write_out
from quire.cli.load import LoadedModel
from quire.kv.explain import CacheExplanation
from quire.request import Logprob, TokenLogprobs


def show_several(answers: Sequence[Answer]) -> None:
    """Prints numbered answers one after another, each with its log-probabilities if there are any."""
    for number, answer in enumerate(answers, start=1):
        write_out(f"[{number} of {len(answers)}]\n{answer.text}")
        end_line(answer.text)
        show_logprobs(answer)
        if number < len(answers):
            write_out("\n")


def show_logprobs(answer: Answer) -> None:
    """Prints a table of an answer's tokens: log-probability, rank, and the most likely tokens at their positions."""
    if not answer.logprobs:
        return
    rows = [_row(token_id, found) for token_id, found in zip(answer.token_ids, answer.logprobs, strict=False)]
    headers = ("token", "id>", "logprob>", "rank>", "most likely at its position")
    out_console().print(listing("", headers, rows))


def json_of(loaded: LoadedModel, answers: Sequence[Answer], explanations: Sequence[CacheExplanation] = ()) -> dict[str, Any]:
    """Returns a JSON object with one answer, or a list of several, their statistics, and what the cache did for each."""
    head: dict[str, Any] = {"model": loaded.name}
    layout = loaded.llm.core.executor.layout
    found = [_answer_json(answer) for answer in answers]
    for answer, explanation in zip(found, explanations, strict=False):
        answer["cache"] = explanation_json(explanation)
    if len(found) == 1:
        stats = stats_of(answers[0], layout)
        return head | found[0] | ({} if stats is None else stats.to_json())
    stats = stats_of_all(answers, layout)
    return head | {"answers": found} | ({} if stats is None else stats.to_json())


def _answer_json(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {
        "text": answer.text,
        "finish_reason": answer.finish_reason.value,
        "token_ids": answer.token_ids,
    }
    if answer.last is not None:
        found |= {"stop_reason": answer.last.outputs[0].stop_reason, "seed": answer.last.outputs[0].seed}
    if answer.logprobs:
        pairs = zip(answer.token_ids, answer.logprobs, strict=False)
        found["logprobs"] = [_logprobs_json(token_id, candidates) for token_id, candidates in pairs]
    return found


def _logprobs_json(token_id: int, found: TokenLogprobs) -> dict[str, Any]:
    return _token_json(token_id, found[token_id]) | {
        "top": [_token_json(other, candidate) for other, candidate in _by_rank(found)]
    }


def _token_json(token_id: int, candidate: Logprob) -> dict[str, Any]:
    return {"token_id": token_id, "token": candidate.decoded_token, "logprob": candidate.logprob, "rank": candidate.rank}


def _row(token_id: int, found: TokenLogprobs) -> tuple[str, ...]:
    own = found[token_id]
    others = "  ".join(f"{candidate.decoded_token!r} {candidate.logprob:.3f}" for _, candidate in _by_rank(found))
    return repr(own.decoded_token), str(token_id), f"{own.logprob:.3f}", str(own.rank), others


def _by_rank(found: TokenLogprobs) -> list[tuple[int, Logprob]]:
    return sorted(found.items(), key=lambda item: item[1].rank)
