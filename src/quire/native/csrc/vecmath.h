// Elementary functions on vectors, built from the four operations alone, so that whole vectors and tails
// agree in every lane.
#pragma once

#include "simd.h"

namespace quire::QUIRE_ISA {

// e^x within 2 ulp on [-87.3, 88.3]; 0 below, infinity above, NaN for NaN. Range reduction by ln 2 in two
// parts, then the degree-6 minimax polynomial of the Cephes library.
static inline vf exp(vf x) {
  x = min(set1(88.7228394f), x);
  vf n = round_nearest(mul(max(set1(-126.0f / 1.44269504f), x), set1(1.44269504f)));
  vf r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  vf p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  vf y = add(fma(p, mul(r, r), r), set1(1.0f));
  return select_less(x, set1(-87.33654f), set1(0.0f), mul(y, exp2_int(n)));
}

static inline float exp(float x) {
  float lanes[kLanes];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

// tanh x = 1 - 2 / (e^2x + 1), absolute error below 2e-7.
static inline vf tanh(vf x) {
  return sub(set1(1.0f), div(set1(2.0f), add(exp(mul(x, set1(2.0f))), set1(1.0f))));
}

static inline vf softcap(vf x, float cap) { return mul(set1(cap), tanh(div(x, set1(cap)))); }

// erf, Abramowitz and Stegun 7.1.26; absolute error below 2e-7.
static inline vf erf(vf x) {
  vf magnitude = max(x, sub(set1(0.0f), x));
  vf t = div(set1(1.0f), fma(set1(0.3275911f), magnitude, set1(1.0f)));
  vf p = set1(1.061405429f);
  p = fma(p, t, set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  vf y = sub(set1(1.0f), mul(mul(p, t), exp(sub(set1(0.0f), mul(magnitude, magnitude)))));
  return select_less(x, set1(0.0f), sub(set1(0.0f), y), y);
}

static inline vf silu(vf x) { return div(x, add(set1(1.0f), exp(sub(set1(0.0f), x)))); }

static inline vf gelu(vf x) {
  return mul(mul(set1(0.5f), x), add(set1(1.0f), erf(mul(x, set1(0.70710678f)))));
}

static inline vf gelu_tanh(vf x) {
  vf cubic = fma(mul(set1(0.044715f), mul(x, x)), x, x);
  return mul(mul(set1(0.5f), x), add(set1(1.0f), tanh(mul(set1(0.79788456f), cubic))));
}

static inline vf activate(Activation kind, vf x) {
  switch (kind) {
    case Activation::kSilu: return silu(x);
    case Activation::kGelu: return gelu(x);
    case Activation::kGeluTanh: return gelu_tanh(x);
    case Activation::kRelu: return max(set1(0.0f), x);  // this order of operands keeps a NaN
  }
  return x;
}

}  // namespace quire::QUIRE_ISA
