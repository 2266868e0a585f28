"""`POST /v1/score`: teacher-forced log-probabilities of a text, optionally after a context whose own are not wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from quire.engine.scores import Score, score_of
from quire.request import RequestOutput, TokenLogprobs
from quire.server.diagnostics_notes import NoteAuthor
from quire.server.errors import refuse
from quire.server.fields import Priority, RequestFields, ignored_fields, ignored_header, read_fields, require_logprobs
from quire.server.generation import Generation, MaxTokens, usage_of
from quire.server.json_body import Fields
from quire.server.logprobs import number_of
from quire.server.planning import require_fitting
from quire.server.prompts import require_prompt
from quire.server.render import Call, Envelope, new_id, to_json, usage_fields
from quire.server.sampling_schema import MaybePrompt, Prompt
from quire.server.service import Service
from quire.server.told import headers_of


class ScoreFields(RequestFields):
    """The fields of a score. `context` and `prompt` are two texts, or two lists of token ids."""

    prompt: Prompt = None
    context: MaybePrompt = None
    top_logprobs: int | None = None
    priority: Priority = None


def read_score(fields: Fields, service: Service, tenant: str) -> Call:
    """Returns the call for a request; raises ApiError or RequestError for what cannot be answered."""
    request = read_fields(ScoreFields, fields)
    model = service.model.name_for(request.model)
    num_top = require_logprobs("top_logprobs", request.top_logprobs, service.limits) or 0
    _require_prompts(request, service)
    submission = service.engine.frontend.score(request.prompt, request.context, num_top)
    require_fitting(submission.prompt, service)
    submission = replace(submission, tenant=tenant, priority=request.priority or 0)
    generation = Generation(
        groups=tuple(service.engine.check([submission])),
        num_choices=1,
        max_tokens=MaxTokens(requested=None, kept=None),
        drops_output=True,
    )
    envelope = Envelope(kind="score", model=model, fingerprint=service.fingerprint, answer_id=new_id("score-"))
    return Call(
        generation=generation,
        renderer=ScoreRenderer(envelope=envelope, generation=generation, service=service, num_top=num_top),
        stream=None,
        headers=headers_of(generation, ignored_header(ignored_fields(request), service.limits)),
        note=NoteAuthor(digester=service.digester, owner=tenant).note(envelope.answer_id, generation.groups),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRenderer:
    """Writes a score as one object."""

    envelope: Envelope
    generation: Generation
    service: Service
    num_top: int

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes:
        """Returns one entry per token of context and prompt; null where none is wanted, and for the first token of all."""
        score = score_of(outputs[0], self.generation.groups[0].submission.prompt.num_context_tokens)
        tokenizer = self.service.source.tokenizer
        usage = usage_of(outputs, self.generation, self.service.source.block_size)
        return to_json(
            {
                **self.envelope.fields(self.envelope.kind),
                "token_ids": score.token_ids,
                "tokens": [tokenizer.token_text(token_id) for token_id in score.token_ids],
                "num_context_tokens": score.num_given_tokens,
                "logprobs": [None if entry is None else number_of(entry) for entry in score.tokens],
                "top_logprobs": self._candidates(score),
                "total": score.total,
                "loss": score.loss,
                "perplexity": score.perplexity,
                "usage": usage_fields(usage),
            }
        )

    def _candidates(self, score: Score) -> list[list[dict[str, Any]] | None] | None:
        return [_most_likely(entry, self.num_top) for entry in score.candidates] if self.num_top else None


def _most_likely(candidates: TokenLogprobs | None, num_top: int) -> list[dict[str, Any]] | None:
    if candidates is None:
        return None
    within = sorted((entry.rank, token_id) for token_id, entry in candidates.items() if entry.rank <= num_top)
    return [
        {
            "token_id": token_id,
            "token": candidates[token_id].decoded_token,
            "logprob": number_of(candidates[token_id]),
            "rank": rank,
        }
        for rank, token_id in within
    ]


def _require_prompts(request: ScoreFields, service: Service) -> None:
    require_prompt(request.prompt, service, "prompt")
    if request.context is None:
        return
    require_prompt(request.context, service, "context")
    if isinstance(request.context, str) is not isinstance(request.prompt, str):
        raise refuse("context and prompt must have the same form", "Send two texts, or token ids twice.", param="context")
