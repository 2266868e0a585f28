"""Rotary frequencies: one float32 value per rotated pair, with every kind of length scaling that does not depend on length.

    default    f[i] = theta ** (-2i / dim)
    linear     f / factor
    llama3     long wavelengths divided by `factor`, short ones kept, a smooth ramp between    (Llama 3.1)
    yarn       the same idea with the ramp over pair indices, and a warmer softmax             (Peng et al., arXiv 2309.00071)
    longrope   one searched divisor per pair; a short and a long list                          (Ding et al., arXiv 2402.13753)

Every step is rounded to float32 in the order in which `transformers` does it, because at position 100,000 an error of one
unit in the last place of a frequency is already visible. Powers are taken in float64 and rounded once, so the values do not
depend on the machine's vector library.

Dynamic NTK scaling is absent on purpose: beyond the context of the file its frequencies change with the length of the
request, so keys that were cached at one length would be wrong at the next. Up to that context they are those of default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from quire.arrays import Float32Array
from quire.models.spec import RopeSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class NoScaling:
    """Frequencies as trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """All positions divided by one factor."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Wavelengths above original_context / low_freq_factor are squeezed, below original_context / high_freq_factor kept."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """Pairs that rotate more than `beta_fast` times within the original context are kept, fewer than `beta_slow` squeezed.

    `has_whole_bounds` rounds the two ramp ends outwards to whole pair indices.
    """

    factor: float
    original_context: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    has_whole_bounds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRopeScaling:
    """One divisor per pair, already chosen from the short or the long list."""

    divisors: tuple[float, ...]
    attention_factor: float


RopeScaling = NoScaling | LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling


def build_rope(rotary_dim: int, theta: float, scaling: RopeScaling) -> RopeSpec:
    """Returns the rotation of heads whose first `rotary_dim` (even) elements rotate, base `theta`."""
    powers = _powers(rotary_dim, theta)
    inverse = np.float32(1.0) / powers
    attention_factor = 1.0
    match scaling:
        case LinearScaling():
            inverse = inverse / np.float32(scaling.factor)
        case Llama3Scaling():
            inverse = _llama3(inverse, scaling)
        case YarnScaling():
            inverse = _yarn(powers, theta, scaling)
            attention_factor = scaling.attention_factor
        case LongRopeScaling():
            inverse = np.float32(1.0) / (np.asarray(scaling.divisors, dtype=np.float32) * powers)
            attention_factor = scaling.attention_factor
    return RopeSpec(inv_freq=tuple(inverse.tolist()), attention_factor=attention_factor)


def _powers(rotary_dim: int, theta: float) -> Float32Array:
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    return np.power(np.float64(theta), exponents.astype(np.float64)).astype(np.float32)


def _llama3(inverse: Float32Array, scaling: Llama3Scaling) -> Float32Array:
    wavelength = np.float32(2 * math.pi) / inverse
    longest_kept = scaling.original_context / scaling.high_freq_factor
    shortest_squeezed = scaling.original_context / scaling.low_freq_factor
    squeezed = inverse / np.float32(scaling.factor)
    turns = np.float32(scaling.original_context) / wavelength
    kept_share = (turns - np.float32(scaling.low_freq_factor)) / np.float32(scaling.high_freq_factor - scaling.low_freq_factor)
    blended = (np.float32(1.0) - kept_share) * inverse / np.float32(scaling.factor) + kept_share * inverse
    return np.where(wavelength < longest_kept, inverse, np.where(wavelength > shortest_squeezed, squeezed, blended))


def _yarn(powers: Float32Array, theta: float, scaling: YarnScaling) -> Float32Array:
    rotary_dim = 2 * len(powers)
    low = _pair_index_of_turns(scaling.beta_fast, rotary_dim, theta, scaling.original_context)
    high = _pair_index_of_turns(scaling.beta_slow, rotary_dim, theta, scaling.original_context)
    if scaling.has_whole_bounds:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    if low == high:
        high += 0.001  # a step instead of a division by zero
    ramp = (np.arange(len(powers), dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept_share = np.float32(1.0) - np.clip(ramp, np.float32(0.0), np.float32(1.0))
    kept = np.float32(1.0) / powers
    squeezed = np.float32(1.0) / (np.float32(scaling.factor) * powers)
    blended: Float32Array = squeezed * (np.float32(1.0) - kept_share) + kept * kept_share
    return blended


def _pair_index_of_turns(turns: float, rotary_dim: int, theta: float, context: int) -> float:
    """Returns the (fractional) pair index that rotates `turns` times within `context` positions."""
    return rotary_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))
