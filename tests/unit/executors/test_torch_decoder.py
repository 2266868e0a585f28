"""`Decoder`: canonical names, one call for training and decoding, and gradients that are the slope of the loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from quire.config import DType, KVFormat
from quire.errors import EmptyPromptError, ExecutorError, PromptTooLongError, RequestError
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import kv_layout
from quire.executors.reference import ReferenceExecutor
from quire.executors.torch_decoder import Decoder
from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, Weights
from support.configs import CONFIGS, spec_of, unusual_specs
from support.steps import BLOCK_SIZE, step
from support.weights import random_weights

TOKENS = [7, 250, 3, 3, 90, 11, 42, 0, 199, 8, 17, 5]


SPECS = {family: spec_of(family) for family in CONFIGS} | unusual_specs()


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return SPECS[request.param]


def decoder_of(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> Decoder:
    return Decoder.from_weights(spec, random_weights(spec), dtype)


def loss_of(decoder: Decoder) -> torch.Tensor:
    input_ids = torch.tensor([TOKENS, TOKENS[::-1]])
    logits, past_kvs = decoder(input_ids, use_cache=False)
    assert past_kvs is None
    return cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())


def test_state_dict_has_the_canonical_names_and_shapes(spec: ModelSpec) -> None:
    for decoder in (Decoder(spec), decoder_of(spec)):
        assert {name: tuple(value.shape) for name, value in decoder.state_dict().items()} == spec.tensor_shapes()
        assert list(decoder.state_dict()) == list(spec.tensor_shapes()) == [name for name, _ in decoder.named_parameters()]


def test_logits_are_those_of_the_definition(spec: ModelSpec) -> None:
    layout = kv_layout(spec, BLOCK_SIZE, KVFormat.FLOAT32)
    reference = ReferenceExecutor(spec, random_weights(spec), ExecutorOptions(layout=layout, num_blocks=3, dtype=DType.FLOAT32))
    expected = reference.run(step((TOKENS, 0, [0, 1, 2])))
    with torch.no_grad():
        logits, _ = decoder_of(spec)(torch.tensor([TOKENS]), use_cache=False)
    np.testing.assert_allclose(logits[0].numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_past_grows_by_concatenation_and_is_never_changed(spec: ModelSpec) -> None:
    decoder = decoder_of(spec)
    with torch.no_grad():
        whole, _ = decoder(torch.tensor([TOKENS, TOKENS[::-1]]))
        _, past_kvs = decoder(torch.tensor([TOKENS[:5], TOKENS[::-1][:5]]))
        before = [(k.clone(), v.clone()) for k, v in past_kvs]
        chunk, _ = decoder(torch.tensor([TOKENS[5:], TOKENS[::-1][5:]]), past_kvs=past_kvs)
        _, grown = decoder(torch.tensor([[1], [2]]), past_kvs=past_kvs)
    torch.testing.assert_close(chunk, whole[:, 5:], rtol=0, atol=1e-5 * float(whole.abs().max()))
    for (k, v), (old_k, old_v), (new_k, new_v) in zip(past_kvs, before, grown, strict=True):
        assert k.shape == v.shape == (2, spec.num_kv_heads, 5, spec.head_dim)
        assert torch.equal(k, old_k)
        assert torch.equal(v, old_v)
        assert torch.equal(new_k[:, :, :5], k)
        assert torch.equal(new_v[:, :, :5], v)
        assert new_k.shape[2] == 6


def test_gradient_is_the_slope_of_the_loss(spec: ModelSpec) -> None:
    """Along a random direction in the space of all parameters, in float64; and no parameter is left out."""
    decoder = decoder_of(spec, torch.float64)
    loss_of(decoder).backward()
    generator, size = torch.Generator().manual_seed(0), 1e-6
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in decoder.parameters()]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(decoder.parameters(), directions, strict=True) if p.grad is not None)

    def loss_at(distance: float) -> float:
        with torch.no_grad():
            torch._foreach_add_(list(decoder.parameters()), directions, alpha=distance)
            loss = float(loss_of(decoder))
            torch._foreach_sub_(list(decoder.parameters()), directions, alpha=distance)
        return loss

    assert slope == pytest.approx((loss_at(size) - loss_at(-size)) / (2 * size), rel=1e-4)
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


def test_weights_come_back_as_they_went_in(spec: ModelSpec) -> None:
    weights = random_weights(spec)
    back = Decoder.from_weights(spec, weights).to_weights()
    assert list(back) == list(spec.tensor_shapes())
    for name, tensor in back.items():
        assert tensor.dtype is SourceDType.FLOAT32
        np.testing.assert_array_equal(tensor.bits, weights[name].bits)


@pytest.mark.parametrize(("dtype", "source"), [(torch.bfloat16, SourceDType.BFLOAT16), (torch.float16, SourceDType.FLOAT16)])
def test_narrow_weights_come_back_in_their_own_format(dtype: torch.dtype, source: SourceDType) -> None:
    spec = spec_of("llama")
    weights = random_weights(spec)
    back = Decoder.from_weights(spec, weights, dtype).to_weights()
    for name, tensor in back.items():
        assert tensor.dtype is source
        expected = torch.from_numpy(weights[name].to_float32()).to(dtype).float().numpy()
        np.testing.assert_array_equal(tensor.to_float32(), expected)


def test_weights_are_a_snapshot_whose_fingerprint_follows_the_values() -> None:
    decoder = decoder_of(spec_of("llama"))
    before = decoder.to_weights()
    with torch.no_grad():
        decoder.final_norm.weight[3] += 1
    after = decoder.to_weights()
    assert after["final_norm.weight"].bits[3] == before["final_norm.weight"].bits[3] + 1
    assert after.fingerprint != before.fingerprint == decoder_of(spec_of("llama")).to_weights().fingerprint


def test_weights_of_another_model_are_refused() -> None:
    spec = spec_of("llama")
    weights = dict(random_weights(spec))
    del weights["final_norm.weight"]
    with pytest.raises(ExecutorError, match=r"final_norm\.weight"):
        Decoder.from_weights(spec, Weights(weights, b""))


def test_fresh_weights_depend_on_the_seed_alone(spec: ModelSpec) -> None:
    first, again, other = Decoder(spec), Decoder(spec), Decoder(spec)
    first.init_weights(1)
    again.init_weights(1)
    other.init_weights(2)
    assert first.to_weights().fingerprint == again.to_weights().fingerprint != other.to_weights().fingerprint
    tokens = torch.tensor([TOKENS])
    with torch.no_grad():
        logits = first(tokens, use_cache=False)[0][:, :-1].flatten(0, 1)
        surprise = cross_entropy(logits, tokens[:, 1:].flatten())
    assert float(surprise) == pytest.approx(np.log(spec.vocab_size), rel=0.15)  # as good as a guess


def test_rotation_keeps_float32_frequencies_in_a_bfloat16_decoder() -> None:
    spec = spec_of("llama")
    narrow, cast = decoder_of(spec, torch.bfloat16), decoder_of(spec).to(torch.bfloat16)
    far = torch.tensor([[1] * 500])
    with torch.no_grad():
        wanted, found = (decoder(far, use_cache=False)[0] for decoder in (narrow, cast))
    assert all(torch.equal(rope.inv_freq, torch.tensor(spec.layers[0].rope.inv_freq)) for rope in cast.ropes)
    assert wanted.dtype is torch.bfloat16
    assert torch.equal(wanted, found)


def test_bfloat16_autocast_trains_float32_parameters() -> None:
    decoder = decoder_of(spec_of("gemma3_text"))
    exact = float(loss_of(decoder).detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(decoder)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(exact, rel=0.02)
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in decoder.parameters())


def test_tied_head_learns_as_one_parameter() -> None:
    spec = replace(spec_of("llama"), is_head_tied=True)
    decoder = decoder_of(spec)
    loss_of(decoder).backward()
    assert "head.weight" not in decoder.state_dict()
    unseen = next(token for token in range(spec.vocab_size) if token not in TOKENS)
    assert decoder.embed.weight.grad is not None
    assert bool(decoder.embed.weight.grad[unseen].any())


@pytest.mark.parametrize(("shape", "error"), [((5,), RequestError), ((1, 0), EmptyPromptError), ((1, 513), PromptTooLongError)])
def test_input_that_does_not_fit_is_refused(shape: tuple[int, ...], error: type[RequestError]) -> None:
    with pytest.raises(error):
        Decoder(spec_of("llama"))(torch.zeros(shape, dtype=torch.int64))
