// The product at the heart of all others: a tile of sums that stays in registers.
//
// A kind of numbers says how the operands are packed: `Singles` are floats; `Pairs` are two bf16
// that follow each other in the sum, which AVX512-BF16 multiplies and adds at once. A step of the
// sum is one packed number of each operand.
#pragma once

#include "vector.h"

namespace tile {

using vector::Bits;
using vector::Float;
using vector::LANES;

struct Singles {
  using Number = float;
  using Register = Float;
  static constexpr int64_t DEPTH = 1;  // so many products are one step of the sum

  [[gnu::always_inline]] static Register splat(const Number* x) { return vector::broadcast(x); }
  [[gnu::always_inline]] static Float add(Float sum, Register left, Register right) {
    return sum + left * right;
  }
};

struct Pairs {
  using Number = uint32_t;  // the first in the lower half
  using Register = Bits;
  static constexpr int64_t DEPTH = 2;

  [[gnu::always_inline]] static Register splat(const Number* x) { return Bits{} + *x; }
  [[gnu::always_inline]] static Float add(Float sum, Register left, Register right) {
    return vector::add_pairs(sum, left, right);
  }
};

// The kind in which numbers of type T are multiplied.
template <class T>
using KindOf = std::conditional_t<vector::PAIRS && std::is_same_v<T, vector::Bfloat16>, Pairs, Singles>;

// total[i][j] = the sum over `steps` s of a(i, s) b(s, j), j counting registers.
//
// a(i, s) is a[i * stride + s], or with COLUMNS a[s * stride + i]; the steps of b lie `b_stride`
// apart.
template <class Kind, bool COLUMNS, int64_t ROWS, int64_t V, class Number = typename Kind::Number>
[[gnu::always_inline]] inline void multiply(const Number* a, int64_t stride, const Number* b,
                                            int64_t b_stride, int64_t steps,
                                            Float (&total)[ROWS][V]) {
  using Register = typename Kind::Register;
  Float sums[ROWS][V];
  // Unrolled, as everything that touches the sums must be for them to stay in registers.
#pragma GCC unroll 32
  for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int64_t j = 0; j < V; ++j) sums[i][j] = Float{};
  for (int64_t s = 0; s < steps; ++s, b += b_stride) {
    Register right[V];
#pragma GCC unroll 4
    for (int64_t j = 0; j < V; ++j) std::memcpy(&right[j], b + j * LANES, sizeof right[j]);
#pragma GCC unroll 32
    for (int64_t i = 0; i < ROWS; ++i) {
      const Register left = Kind::splat(COLUMNS ? a + s * stride + i : a + i * stride + s);
#pragma GCC unroll 4
      for (int64_t j = 0; j < V; ++j) sums[i][j] = Kind::add(sums[i][j], left, right[j]);
    }
  }
#pragma GCC unroll 32
  for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int64_t j = 0; j < V; ++j) total[i][j] = sums[i][j];
}

}  // namespace tile
