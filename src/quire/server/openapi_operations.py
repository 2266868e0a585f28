"""The operations that the server's OpenAPI file describes: one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from quire.server import openapi_agent_answers as of_agents
from quire.server import openapi_answers as answers
from quire.server import openapi_kv_answers as of_kv
from quire.server.chat import ChatFields
from quire.server.completions import CompletionFields
from quire.server.fields import RequestFields, SamplingFields
from quire.server.kv_endpoints import MAX_FIRST
from quire.server.limits import Limits
from quire.server.messages.fields import OF_OTHER_APIS, MessageFields
from quire.server.metrics import CONTENT_TYPE
from quire.server.responses.fields import ResponseFields
from quire.server.score import ScoreFields
from quire.server.tokens import DetokenizeFields, TokenizeFields


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method of a path: what it reads and answers, None where every answer is an error, and text where it is no JSON.

    `required` are fields without which there is nothing to answer, `unread` those that it ignores although it knows their names,
    `query` the parameters behind a question mark. `further` are statuses beside 200 that carry an `answer` and no error.
    """

    method: str
    path: str
    summary: str
    answer: type[BaseModel] | str | None
    fields: type[RequestFields] | None = None
    required: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    query: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    streams: bool = False
    is_public: bool = False
    further: tuple[int, ...] = ()

    @property
    def speaks_anthropic(self) -> bool:
        """Whether its errors are Anthropic's."""
        return self.path.startswith("/v1/messages")


_OF_SAMPLING = (*(name for name in SamplingFields.model_fields if name != "model"), "stop_sequences")
"""What decides the answer and not the prompt, so that counting does not look at its values."""

_PAGE: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "first": {"type": "integer", "minimum": 0, "maximum": MAX_FIRST},
        "limit": {"type": "integer", "minimum": 1, "maximum": Limits().kv_rows},
    }
)

OPERATIONS = (
    Operation(
        method="post",
        path="/v1/chat/completions",
        summary="Answers a chat, whole or as a stream.",
        answer=answers.ChatCompletion,
        fields=ChatFields,
        required=("messages",),
        streams=True,
    ),
    Operation(
        method="post",
        path="/v1/completions",
        summary="Continues texts or token ids, or scores them.",
        answer=answers.Completion,
        fields=CompletionFields,
        required=("prompt",),
        streams=True,
    ),
    Operation(
        method="post",
        path="/v1/messages",
        summary="Answers a conversation, whole or as a stream, in the words of Anthropic's API.",
        answer=of_agents.MessageAnswer,
        fields=MessageFields,
        required=("messages", "max_tokens"),
        unread=OF_OTHER_APIS,
        streams=True,
    ),
    Operation(
        method="post",
        path="/v1/messages/count_tokens",
        summary="Counts the tokens of a conversation.",
        answer=of_agents.CountedTokens,
        fields=MessageFields,
        required=("messages",),
        unread=(*OF_OTHER_APIS, *_OF_SAMPLING),
    ),
    Operation(
        method="post",
        path="/v1/responses",
        summary="Answers a conversation, whole or as a stream, and keeps the answer.",
        answer=of_agents.ResponseAnswer,
        fields=ResponseFields,
        streams=True,
    ),
    Operation(
        method="post",
        path="/v1/responses/input_tokens",
        summary="Counts the tokens of the prompt that a request would have.",
        answer=of_agents.CountedInput,
        fields=ResponseFields,
        unread=(*_OF_SAMPLING, "max_output_tokens", "top_logprobs"),
    ),
    Operation(
        method="get",
        path="/v1/responses/{response_id}",
        summary="Returns a response that is kept.",
        answer=of_agents.ResponseAnswer,
        query={"stream": {"enum": ["false"]}},
    ),
    Operation(
        method="delete",
        path="/v1/responses/{response_id}",
        summary="Forgets a response.",
        answer=of_agents.DeletedResponse,
    ),
    Operation(
        method="post",
        path="/v1/responses/{response_id}/cancel",
        summary="Refuses to cancel a response that is done.",
        answer=None,
    ),
    Operation(
        method="get",
        path="/v1/responses/{response_id}/input_items",
        summary="Lists what a response was given.",
        answer=of_agents.InputItems,
        query={
            "order": {"enum": ["asc", "desc"]},
            "limit": {"type": "integer", "minimum": 1, "maximum": 100},
            "after": {"type": "string"},
        },
    ),
    Operation(method="post", path="/v1/responses/compact", summary="Is not there yet.", answer=None),
    Operation(
        method="post",
        path="/v1/score",
        summary="Tells the log-probability of every token of a prompt.",
        answer=answers.ScoreAnswer,
        fields=ScoreFields,
        required=("prompt",),
    ),
    Operation(method="get", path="/v1/models", summary="Lists the names of the model.", answer=answers.ModelList),
    Operation(method="get", path="/v1/models/{name}", summary="Tells about one name.", answer=answers.ModelCard),
    Operation(
        method="post",
        path="/tokenize",
        summary="Tells the tokens of a text or of a chat.",
        answer=answers.Tokens,
        fields=TokenizeFields,
    ),
    Operation(
        method="post",
        path="/detokenize",
        summary="Tells the text of tokens.",
        answer=answers.Text,
        fields=DetokenizeFields,
        required=("tokens",),
    ),
    Operation(
        method="get",
        path="/v1/kv/map",
        summary="Tells where the cache's memory is.",
        answer=of_kv.KVMapAnswer,
        query=_PAGE,
    ),
    Operation(
        method="get",
        path="/v1/kv/holdings",
        summary="Tells what requests, tenants and prefixes hold of the cache's memory.",
        answer=of_kv.KVHoldings,
        query=_PAGE,
    ),
    Operation(
        method="get",
        path="/v1/kv/ledger",
        summary="Tells what the cache did for recent answers of a key.",
        answer=of_kv.LedgerPage,
        query=_PAGE,
    ),
    Operation(
        method="get",
        path="/v1/kv/explain/{answer_id}",
        summary="Tells how much of an answer's prompts the cache held, and why not more.",
        answer=of_kv.Explanation,
        query={"compared_with": {"type": "string"}},
    ),
    Operation(
        method="get",
        path="/health",
        summary="Tells whether the engine makes progress.",
        answer=answers.State,
        is_public=True,
        further=(503,),
    ),
    Operation(
        method="get",
        path="/ready",
        summary="Tells whether requests are taken.",
        answer=answers.State,
        is_public=True,
        further=(503,),
    ),
    Operation(method="get", path="/metrics", summary="Tells counters as Prometheus reads them.", answer=CONTENT_TYPE),
    Operation(method="get", path="/version", summary="Tells the version.", answer=answers.VersionAnswer),
    Operation(method="get", path="/openapi.json", summary="Describes the server.", answer=answers.Description),
    Operation(method="get", path="/", summary="Tells what is served.", answer=answers.Index),
)
