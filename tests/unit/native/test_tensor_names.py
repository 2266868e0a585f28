"""The tensors that the core wants are those of the spec: equal names and shapes, whatever the layers are made of."""

from __future__ import annotations

import pytest

from quire.executors.native import available_isas
from quire.models.spec import ModelSpec
from support.configs import CONFIGS, spec_of, unusual_specs
from support.core_world import empty_decoder

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

SPECS = {
    **{family: spec_of(family) for family in CONFIGS},
    "llama with biases": spec_of("llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    **unusual_specs(),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_core_and_spec_name_the_same_tensors(spec: ModelSpec) -> None:
    shapes = {name: tuple(shape) for name, shape in empty_decoder(spec).tensor_shapes.items()}
    assert shapes == spec.tensor_shapes()
