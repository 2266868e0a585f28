"""The files of published checkpoints build the models that they are known as, though they hold fields that no model needs."""

from __future__ import annotations

import json
from math import prod

import pytest

from quire.models.config_file import parse_config
from quire.models.families import build_spec
from quire.models.spec import ModelSpec
from support.published import PUBLISHED, Published


def spec_of(published: Published) -> ModelSpec:
    return build_spec(parse_config(json.dumps(published.fields).encode()))


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.name)
def test_a_published_config_builds_its_model(published: Published) -> None:
    spec = spec_of(published)
    assert sum(prod(shape) for shape in spec.tensor_shapes().values()) == published.num_parameters
    assert spec.max_context == published.context
