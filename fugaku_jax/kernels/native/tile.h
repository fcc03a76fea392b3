// The product at the heart of all others: a tile of sums that stays in registers.
//
// A kind of numbers says how the operands are packed: `Singles` are floats; `Pairs` are two bf16
// that follow each other in the sum, which AVX512-BF16 multiplies and adds at once; `Halves` are
// fp16, twice as many in a register, which A64FX multiplies and adds as they are; `Tiles` are pairs
// again, which AMX multiplies 16 x 16 x 16 at once, and there the sums stay in tiles of its own. A
// step of the sum is one packed number of each operand.
#pragma once

#include <algorithm>

#include "isa/amx.h"
#include "transpose.h"
#include "vector.h"

namespace tile {

using vector::Bits;
using vector::Float;
using vector::LANES;

struct Singles {
  using Number = float;
  using Register = Float;
  using Sum = Float;
  static constexpr int64_t DEPTH = 1;  // so many products are one step of the sum

  [[gnu::always_inline]] static Register splat(const Number* x) { return vector::broadcast(x); }
  [[gnu::always_inline]] static Float add(Float sum, Register left, Register right) {
    return sum + left * right;
  }
};

struct Pairs {
  using Number = uint32_t;  // the first in the lower half
  using Register = Bits;
  using Sum = Float;
  static constexpr int64_t DEPTH = 2;

  [[gnu::always_inline]] static Register splat(const Number* x) { return Bits{} + *x; }
  [[gnu::always_inline]] static Float add(Float sum, Register left, Register right) {
    return vector::add_pairs(sum, left, right);
  }
};

struct Halves {
  using Number = isa::HalfScalar;
  using Register = vector::Halves;
  using Sum = vector::Halves;
  static constexpr int64_t DEPTH = 1;
  // Products that are added in fp16 before their sum goes to one in fp32: fewer are more exact,
  // more are faster.
  static constexpr int64_t BLOCK = 48;

  [[gnu::always_inline]] static Register splat(const Number* x) { return vector::broadcast(x); }
  [[gnu::always_inline]] static Sum add(Sum sum, Register left, Register right) {
    return sum + left * right;
  }
};

struct Tiles : Pairs {};

// Numbers of a kind in a register.
template <class Kind>
constexpr int64_t NUMBERS = isa::BYTES / sizeof(typename Kind::Number);

// Rows of a product's sums at once, and their columns, which are a panel of its right operand. Of
// AMX's eight tiles, 2 x 2 are sums.
template <class Kind>
constexpr int64_t ROWS = isa::TILE_ROWS;
template <>
constexpr int64_t ROWS<Tiles> = 2 * amx::ROWS;
template <class Kind>
constexpr int64_t PANEL = isa::TILE_VECTORS * NUMBERS<Kind>;
template <>
constexpr int64_t PANEL<Tiles> = 2 * amx::BYTES / sizeof(Tiles::Number);

// Steps of a sum that are done at once: what is missing is filled up by zeros.
template <class Kind>
constexpr int64_t UNIT = 1;
template <>
constexpr int64_t UNIT<Tiles> = amx::BYTES / sizeof(Tiles::Number);

// The steps of a sum of `depth` products.
template <class Kind>
constexpr int64_t steps_of(int64_t depth) {
  constexpr int64_t PRODUCTS = Kind::DEPTH * UNIT<Kind>;
  return (depth + PRODUCTS - 1) / PRODUCTS * UNIT<Kind>;
}

// What a thread has to hold while it multiplies numbers of a kind.
template <class Kind>
struct Session {};
template <>
struct Session<Tiles> : amx::Session {};

// The kind in which numbers of type T are multiplied where sums of every kind are of fp32.
template <class T>
using WideKindOf =
    std::conditional_t<vector::PAIRS && std::is_same_v<T, vector::Bfloat16>, Pairs, Singles>;

// The kind in which numbers of type T are multiplied.
template <class T>
using KindOf = std::conditional_t<
    vector::HALVES && std::is_same_v<T, vector::Half>, Halves,
    std::conditional_t<amx::TILES && std::is_same_v<T, vector::Bfloat16>, Tiles, WideKindOf<T>>>;

// total[i][j] = the sum over `steps` s of a(i, s) b(s, j), j counting registers.
//
// a(i, s) is a[i * stride + s], or with COLUMNS a[s * stride + i]; the steps of b lie `b_stride`
// apart.
template <class Kind, bool COLUMNS, int64_t ROWS, int64_t V, class Number = typename Kind::Number,
          class Sum = typename Kind::Sum>
[[gnu::always_inline]] inline void multiply(const Number* a, int64_t stride, const Number* b,
                                            int64_t b_stride, int64_t steps,
                                            Sum (&total)[ROWS][V]) {
  using Register = typename Kind::Register;
  Sum sums[ROWS][V];
  // Unrolled, as everything that touches the sums must be for them to stay in registers.
#pragma GCC unroll 32
  for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int64_t j = 0; j < V; ++j) sums[i][j] = Sum{};
  for (int64_t s = 0; s < steps; ++s, b += b_stride) {
    Register right[V];
#pragma GCC unroll 4
    for (int64_t j = 0; j < V; ++j) std::memcpy(&right[j], b + j * NUMBERS<Kind>, sizeof right[j]);
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

// As `multiply`, but the sums of every kind are of fp32, in the order of b's columns. Those of
// halves are cut into equal blocks, each added in fp16; even and odd columns wait apart.
template <class Kind, bool COLUMNS, int64_t ROWS, int64_t V, class Number = typename Kind::Number>
[[gnu::always_inline]] inline void multiply_wide(const Number* a, int64_t stride, const Number* b,
                                                 int64_t b_stride, int64_t steps,
                                                 Float (&total)[ROWS][V]) {
  if constexpr (!std::is_same_v<Kind, Halves>) {
    multiply<Kind, COLUMNS>(a, stride, b, b_stride, steps, total);
  } else {
    for (auto& row : total) std::fill_n(row, V, Float{});
    // They do not fit registers beside the sums of a block. Hidden from the compiler, which would
    // move those to and fro else, they stay in memory.
    Float* wide = total[0];
    asm("" : "+r"(wide) : : "memory");
    const int64_t blocks = (steps + Kind::BLOCK - 1) / Kind::BLOCK;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = block * steps / blocks, end = (block + 1) * steps / blocks;
      vector::Halves sums[ROWS][V / 2];
      multiply<Kind, COLUMNS>(a + begin * (COLUMNS ? stride : 1), stride, b + begin * b_stride,
                              b_stride, end - begin, sums);
#pragma GCC unroll 32
      for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int64_t j = 0; j < V / 2; ++j) vector::add_halves(sums[i][j], wide + i * V + 2 * j);
    }
    constexpr auto lanes = std::make_index_sequence<LANES>{};
    for (auto& row : total)
      for (int64_t j = 0; j < V; j += 2) {
        const Float even = row[j], odd = row[j + 1];
        row[j] = vector::interleave<false>(even, odd, lanes);
        row[j + 1] = vector::interleave<true>(even, odd, lanes);
      }
  }
}

// total = the sum over `steps` s of a(:, s) b(s, :), by tiles. Of `a` UNIT numbers of a row lie
// together, the next row's `row` numbers further on and the row's next ones `block`; `b` is a panel.
//
// What the next step needs is loaded as soon as a tile is free, and not when it is needed: a tenth
// faster on a core that was shared.
template <int64_t V>
[[gnu::always_inline]] inline void multiply_tiles(const Tiles::Number* a, int64_t row, int64_t block,
                                                  const Tiles::Number* b, int64_t steps,
                                                  Float (&total)[ROWS<Tiles>][V]) {
  constexpr int64_t NUMBER = sizeof *a, WIDTH = PANEL<Tiles> * NUMBER;
  constexpr int64_t TILE = amx::ROWS * UNIT<Tiles>;
  amx::clear<0>();
  amx::clear<1>();
  amx::clear<2>();
  amx::clear<3>();
  const auto step = [&](bool first, bool last) __attribute__((always_inline)) {
    if (!first) amx::add_bf16<0, 4, 6>();
    if (!first) amx::add_bf16<1, 4, 7>();
    if (!last) amx::load<4>(a, row * NUMBER);
    if (!first) amx::add_bf16<2, 5, 6>();
    if (!last) amx::load<6>(b, amx::BYTES);
    if (!first) amx::add_bf16<3, 5, 7>();
    if (!last) amx::load<5>(a + amx::ROWS * row, row * NUMBER);
    if (!last) amx::load<7>(b + TILE, amx::BYTES);
    a += block;
    b += 2 * TILE;
  };
  if (steps > 0) {
    step(true, false);
    for (int64_t s = UNIT<Tiles>; s < steps; s += UNIT<Tiles>) step(false, false);
    step(false, true);
  }
  amx::store<0>(total[0], WIDTH);
  amx::store<1>(total[0] + V / 2, WIDTH);
  amx::store<2>(total[amx::ROWS], WIDTH);
  amx::store<3>(total[amx::ROWS] + V / 2, WIDTH);
}

}  // namespace tile
