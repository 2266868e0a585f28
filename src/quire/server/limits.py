"""Every limit of the server in one table, which docs/serve.md shows. What exceeds one is refused and disturbs nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any, cast

from quire.sampling import MAX_COMPLETIONS, MAX_NAMED_TOKENS, MAX_STOP_CHARS, MAX_STOPS
from quire.units import KIB, MIB, format_bytes

MAX_LABEL_CHARS = 256
MAX_METADATA_NAME_CHARS, MAX_METADATA_CHARS = 64, 512


def _limit(default: float, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask for, and how long the server waits for it."""

    connections: int = _limit(4096, "connections at once; one more gets 429 and is closed")
    connections_per_address: int = _limit(2048, "connections from one address at once")
    head_bytes: int = _limit(32 * KIB, "request line and headers together; 431 beyond")
    head_fields: int = _limit(100, "header fields; 431 beyond")
    head_s: float = _limit(10.0, "time for the head of a request, from its first byte; then 408")
    body_bytes: int = _limit(8 * MIB, "body of a request; 413 beyond")
    body_grace_s: float = _limit(10.0, "time after which a body must keep up the least rate; then the connection is closed")
    body_bytes_per_s: int = _limit(4 * KIB, "least rate of a body")
    write_s: float = _limit(60.0, "time that a client may leave what it was sent unread; then the connection is closed")
    keep_alive_s: float = _limit(75.0, "time that a connection may stay open between requests")
    heartbeat_s: float = _limit(5.0, "silence in a stream after which a comment is sent")
    json_depth: int = _limit(100, "nesting of a JSON body")
    json_digits: int = _limit(20, "digits of an integer in a JSON body")
    messages: int = _limit(4096, "messages of a chat")
    parts: int = _limit(1024, "parts of a message")
    tools: int = _limit(1024, "tools of a request")
    prompts: int = _limit(256, "prompts of a completion request")
    choices: int = _limit(512, "choices of a request: prompts times `n`")
    completions: int = _limit(MAX_COMPLETIONS, "`n`")
    stops: int = _limit(MAX_STOPS, "`stop` strings, and `bad_words`")
    stop_chars: int = _limit(MAX_STOP_CHARS, "characters of one of them")
    named_tokens: int = _limit(MAX_NAMED_TOKENS, "`stop_token_ids`")
    logit_biases: int = _limit(300, "entries of `logit_bias`")
    logprobs: int = _limit(20, "`top_logprobs`, `logprobs` of a completion, `prompt_logprobs`")
    prompt_entries: int = _limit(
        3_000_000, "log-probabilities of prompts in an answer: tokens, times candidates and the token itself, times choices"
    )
    text_ids: int = _limit(262_144, "token ids of `/detokenize`")
    metadata: int = _limit(
        16, f"entries of `metadata`: names of {MAX_METADATA_NAME_CHARS} characters, texts of {MAX_METADATA_CHARS}"
    )
    stored_bytes: int = _limit(64 * MIB, "responses that are kept; beyond, the least recently used of the key that has most go")
    stored_responses: int = _limit(4096, "number of responses that are kept")
    stored_s: float = _limit(86_400.0, "time that a response is kept after its last use")
    label_chars: int = _limit(MAX_LABEL_CHARS, "characters of `model` and `cache_salt`; `prompt_cache_key` is cut there")
    noted_answers: int = _limit(4096, "answers whose prompts are known by digests, for cache diagnostics and `/v1/kv`")
    noted_bytes: int = _limit(32 * MIB, "these digests; the oldest of the key with most go first")
    noted_s: float = _limit(3600.0, "time that they are kept")
    kv_rows: int = _limit(1024, "blocks or answers in one page of `/v1/kv`")
    kv_looks: int = _limit(8, "requests of `/v1/kv/map` and `/v1/kv/holdings` that wait for a step to end; 429 beyond")
    open_requests: int = _limit(2048, "choices that are computed or wait, of all clients; 429 beyond")
    open_tokens: int = _limit(1_000_000, "prompt tokens of these; 429 beyond")
    open_requests_per_key: int = _limit(1024, "choices of one key that are computed or wait, where there are several; 429 beyond")
    open_tokens_per_key: int = _limit(500_000, "prompt tokens of these; 429 beyond")
    worker_jobs: int = _limit(64, "large requests that are read or wait for it; 429 beyond")
    worker_s: float = _limit(60.0, "time to read, render and tokenize a request; 504 beyond")
    stall_s: float = _limit(120.0, "time of one step of the engine; beyond, `/health` says 503")
    error_bytes: int = _limit(4 * KIB, "body of an error")
    ignored_bytes: int = _limit(256, "the header `x-quire-ignored`")


def limits_table(limits: Limits) -> str:
    """Returns the limits as a Markdown table."""
    rows = [f"| `{each.name}` | {_written(each, limits)} | {each.metadata['meaning']} |" for each in _fields()]
    return "\n".join(["| limit | value | of what |", "|---|---|---|", *rows])


def _fields() -> Iterator[Field[Any]]:
    return iter(fields(Limits))


def _written(each: Field[Any], limits: Limits) -> str:
    value = getattr(limits, each.name)
    if each.name.endswith("_bytes_per_s"):
        return f"{format_bytes(value)}/s"
    if each.name.endswith("_bytes"):
        return format_bytes(value)
    if each.name.endswith("_s"):
        return f"{value:g} s"
    return f"{cast(int, value):,}"
