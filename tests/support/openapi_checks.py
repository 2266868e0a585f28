"""The server against its own OpenAPI file, with requests that schemathesis makes of it."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS

EXCLUDED = ("positive_data_acceptance",)
"""What the file cannot say: that a prompt fits, that fields go together."""


def operations_of(document: dict[str, Any], url: str, key: str) -> list[Any]:
    """Returns the operations of a file, asked at `url` with a key, and never with one that schemathesis invents."""
    security = ("security", "securitySchemes")
    components = {name: value for name, value in document["components"].items() if name not in security}
    paths = {
        path: {method: {k: v for k, v in described.items() if k not in security} for method, described in methods.items()}
        for path, methods in document["paths"].items()
    }
    plain = {name: value for name, value in document.items() if name not in security}
    schema = schemathesis.openapi.from_dict(plain | {"paths": paths, "components": components})
    schema.config.update(base_url=url, headers={"Authorization": f"Bearer {key}"})
    return [result.ok() for result in schema.get_all_operations()]


def with_ids_below(schema: Any, vocab_size: int) -> Any:
    """Returns a schema in which token ids are those of one model, so that more requests can be answered."""
    if isinstance(schema, list):
        return [with_ids_below(each, vocab_size) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: with_ids_below(value, vocab_size) for name, value in schema.items()}
    return inner | ({"maximum": vocab_size - 1} if schema == {"type": "integer", "minimum": 0} else {})


def check_operation(operation: Any, mode: GenerationMode, num_examples: int, first_seed: int = 0) -> None:
    """Sends so many requests, all of them valid or all invalid, and checks every answer; raises what schemathesis raises."""
    excluded = [CHECKS.get_one(name) for name in EXCLUDED]
    phases = (Phase.explicit, Phase.generate)

    @seed(first_seed)
    @settings(max_examples=num_examples, deadline=None, phases=phases, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        case.call_and_validate(excluded_checks=excluded, timeout=60)

    check()
