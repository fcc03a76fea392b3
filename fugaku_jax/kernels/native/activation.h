// GELU as GPT-2 approximates it, and its derivative.
#pragma once

#include "elementary.h"

namespace activation {

using vector::Float;

constexpr float SLOPE = 0.7978845608f;  // sqrt(2 / pi)
constexpr float CUBE = 0.044715f;

// 0.5 (1 + tanh(u)) = 1 / (1 + e^(-2u)) for u = SLOPE (x + CUBE x³), and its derivative by 2u.
struct Gate {
  Float value, derivative;
};

// By e^(-2|u|), which neither overflows nor loses what is left of a small value.
[[gnu::always_inline]] inline Gate gate(Float x) {
  const Float size = x < 0.0f ? -x : x;
  const Float u = SLOPE * size * (1.0f + CUBE * (x * x));
  const Float e = vector::exp(-2.0f * u);
  const Float above = vector::reciprocal(1.0f + e);
  const Float below = e * above;
  return {x < 0.0f ? below : above, above * below};
}

[[gnu::always_inline]] inline Float gelu(Float x) { return x * gate(x).value; }

[[gnu::always_inline]] inline Float gelu_derivative(Float x) {
  const Gate s = gate(x);
  const Float slope = 2.0f * SLOPE * (1.0f + 3.0f * CUBE * (x * x));  // of 2u
  return s.value + x * s.derivative * slope;
}

}  // namespace activation
