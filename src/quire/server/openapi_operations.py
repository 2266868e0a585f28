"""The operations that the server's OpenAPI file describes: one row each."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from quire.server import openapi_answers as answers
from quire.server.chat import ChatFields
from quire.server.completions import CompletionFields
from quire.server.fields import RequestFields
from quire.server.score import ScoreFields
from quire.server.tokens import DetokenizeFields, TokenizeFields


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method of a path: what it reads and answers. `required` are fields without which there is nothing to answer.

    `further` are statuses beside 200 that carry an `answer` and no error.
    """

    method: str
    path: str
    summary: str
    answer: type[BaseModel]
    fields: type[RequestFields] | None = None
    required: tuple[str, ...] = ()
    streams: bool = False
    is_public: bool = False
    further: tuple[int, ...] = ()

    @property
    def speaks_anthropic(self) -> bool:
        """Whether its errors are Anthropic's."""
        return self.path.startswith("/v1/messages")


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
    Operation(method="get", path="/version", summary="Tells the version.", answer=answers.VersionAnswer),
    Operation(method="get", path="/openapi.json", summary="Describes the server.", answer=answers.Description),
    Operation(method="get", path="/", summary="Tells what is served.", answer=answers.Index),
)
