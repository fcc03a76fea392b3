// Elementary functions on whole registers, by multiplication and addition alone: a division of
// 16 floats takes about 16 cycles on AVX-512 and 98 on A64FX, as does a square root.
#pragma once

#include "vector.h"

namespace vector {

constexpr float INFINITE = std::numeric_limits<float>::infinity();
constexpr float LEAST_NORMAL = std::numeric_limits<float>::min();

constexpr float LOWEST = -87.33654f, HIGHEST = 88.72283f;  // ln of the least, the greatest float
constexpr float LOG2_E = 1.44269504f;

#ifdef __ARM_FEATURE_SVE

// FEXPA knows 2^(n + i / 64), and what remains of an exponent is so small that a polynomial of
// degree 2 is enough.
constexpr float SHIFT = 196608.0f + 127;  // 1.5 2^17: adding it rounds to a multiple of 1/64

[[gnu::always_inline]] inline Float unlimited_exp(Float x) {
  // 2^128 is not in the table: just below it, the remainder is the larger.
  constexpr float LAST = SHIFT + 127 + 63.0f / 64;
  const Float sum = x * LOG2_E + SHIFT;
  const Float shifted = sum < LAST ? sum : splat(LAST);
  const Float n = shifted - SHIFT;
  const Float r = (x - n * 0.693145751953125f) - n * 1.42860682e-6f;
  const Float power = isa::table_exp2(shifted);
  return power + power * (r * ((r * 0.16666667f + 0.5f) * r + 1.0f));
}

[[gnu::always_inline]] inline Float unlimited_exp2(Float x, float unit) {
  const Float shifted = x * unit + SHIFT;
  const Float r = x * unit - (shifted - SHIFT);
  const Float power = isa::table_exp2(shifted);
  return power + power * (r * (r * 0.24022651f + 0.69314718f));
}

#else

// n is the nearest integer; it is added to the exponent of what a polynomial (minimax) makes of the
// remainder, at most ln 2 / 2 or 1/2.
constexpr float SHIFT = 12582912.0f;  // 1.5 2^23: adding it rounds to an integer

[[gnu::always_inline]] inline Float unlimited_exp(Float x) {
  const Float shifted = x * LOG2_E + SHIFT;
  const Float n = shifted - SHIFT;
  const Float r = (x - n * 0.693145751953125f) - n * 1.42860682e-6f;
  Float q = splat(1.3814467e-3f);
  q = q * r + 8.3687808e-3f;
  q = q * r + 4.1668393e-2f;
  q = q * r + 1.6666520e-1f;
  q = q * r + 4.9999994e-1f;
  const Float p = (q * (r * r) + r) + 1.0f;
  // The last bits of `shifted` are n: within the limits, the sum is an exponent again.
  return std::bit_cast<Float>(std::bit_cast<Bits>(p) + (std::bit_cast<Bits>(shifted) << 23));
}

[[gnu::always_inline]] inline Float unlimited_exp2(Float x, float unit) {
  const Float shifted = x * unit + (SHIFT + 127);  // its last bits are n, biased as an exponent is
  const Float r = x * unit - (shifted - (SHIFT + 127));
  Float p = splat(1.326472033e-3f);  // exactly 1 at 0
  p = p * r + 9.671512991e-3f;
  p = p * r + 5.550733954e-2f;
  p = p * r + 2.402224243e-1f;
  p = p * r + 6.931470037e-1f;
  p = p * r + 1.0f;
  return p * std::bit_cast<Float>(std::bit_cast<Bits>(shifted) << 23);
}

#endif

// e^x within 2 units in the last place; results below the normal numbers are 0.
//
// x = n ln 2 + r, and e^x = 2^n e^r. The subtraction of n ln 2 in two parts is Cody and Waite's
// ("Software Manual for the Elementary Functions", 1980).
[[gnu::always_inline]] inline Float exp(Float x) {
  const Float limited = x <= HIGHEST ? unlimited_exp(x) : x * INFINITE;  // a NaN stays one
  return x < LOWEST ? Float{} : limited;
}

// 2^(x unit) for x unit <= 127 and unit > 0, within 3e-7 of it; 0 below the normal numbers, and a
// NaN stays one. The product is computed only within multiply-adds.
[[gnu::always_inline]] inline Float exp2(Float x, float unit) {
  return x < -126.0f / unit ? Float{} : unlimited_exp2(x, unit);
}

// 1 / x within 2 units in the last place, for normal x > 0; 0 where x is above 2^125.
//
// Subtracting the bits of x from a constant negates the exponent and gives 1 / x within 6 %
// (Blinn, "Floating-Point Tricks", 1997); each of Newton's steps squares the error.
[[gnu::always_inline]] inline Float reciprocal(Float x) {
  Float y = std::bit_cast<Float>(0x7ef311c7 - std::bit_cast<Bits>(x));
#pragma GCC unroll 3
  for (int step = 0; step < 3; ++step) y += y * (1.0f - x * y);
  return x > 0.5f / LEAST_NORMAL ? Float{} : y;
}

// The root of x >= 0 within 1 unit in the last place; 0 if x is below the normal numbers.
//
// 1 / sqrt(x) by the bits of x and Newton's steps, as above; x times that is corrected once more.
[[gnu::always_inline]] inline Float square_root(Float x) {
  Float y = std::bit_cast<Float>(0x5f3759df - (std::bit_cast<Bits>(x) >> 1));
#pragma GCC unroll 2
  for (int step = 0; step < 2; ++step) y += y * (0.5f - 0.5f * x * y * y);
  Float root = x * y;
  root += 0.5f * y * (x - root * root);
  root = x < INFINITE ? root : x;  // infinity and NaN
  return x < LEAST_NORMAL ? Float{} : root;
}

}  // namespace vector
