// Sums of rows times a panel of fp32, fp16 or bf16, in fp32.
//
// Every sum is taken in the order of the depth, by the same instructions whatever the rows are.
#pragma once

#include "panel.h"

namespace panel {

// Those of the weights' numbers that stand `H`-th among their DEEP.
template <int H, class W>
[[gnu::always_inline]] inline Float load_weights(const W* w) {
  if constexpr (!std::is_same_v<W, Bfloat16>) {
    return vector::load(w);
  } else {
    Bits pairs;
    std::memcpy(&pairs, w, sizeof pairs);
    return std::bit_cast<Float>(H ? pairs & 0xffff0000 : pairs << 16);
  }
}

template <int H, int64_t ROWS, class W>
[[gnu::always_inline]] inline void add_step(const float* x, int64_t stride, const W* w,
                                            Float (&sums)[ROWS][VECTORS]) {
  Float right[VECTORS];
#pragma GCC unroll 4
  for (int64_t j = 0; j < VECTORS; ++j) right[j] = load_weights<H>(w + j * LANES * DEEP<W>);
#pragma GCC unroll 8
  for (int64_t i = 0; i < ROWS; ++i) {
    const Float left = vector::broadcast(x + i * stride + H);
#pragma GCC unroll 4
    for (int64_t j = 0; j < VECTORS; ++j) sums[i][j] += left * right[j];
  }
}

template <int64_t ROWS>
[[gnu::always_inline]] inline void add_pairs(const Bfloat16* x, int64_t stride, const Bfloat16* w,
                                             Float (&sums)[ROWS][VECTORS]) {
  Bits right[VECTORS];
#pragma GCC unroll 4
  for (int64_t j = 0; j < VECTORS; ++j)
    std::memcpy(&right[j], w + j * LANES * 2, sizeof right[j]);
#pragma GCC unroll 8
  for (int64_t i = 0; i < ROWS; ++i) {
    uint32_t pair;
    std::memcpy(&pair, x + i * stride, sizeof pair);
    const Bits left = pair - Bits{};
#pragma GCC unroll 4
    for (int64_t j = 0; j < VECTORS; ++j) sums[i][j] = vector::add_pairs(sums[i][j], left, right[j]);
  }
}

// sums[i][j] += the sum over `steps` s of x[i][s] w[s][j], for ROWS rows and some columns.
template <int64_t ROWS, bool FETCH, class W>
[[gnu::always_inline]] inline void add_tile(const typename Rows<W>::Number* x, int64_t stride,
                                            const W* w, int64_t steps, float* partial) {
  Float sums[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int64_t j = 0; j < VECTORS; ++j) sums[i][j] = vector::load(partial + i * WIDTH + j * LANES);
  for (int64_t s = 0; s < steps; ++s, w += DEEP<W> * WIDTH, x += DEEP<W>) {
    if constexpr (FETCH) fetch(w, DEEP<W> * WIDTH * sizeof(W));
    if constexpr (Rows<W>::NARROW) {
      add_pairs(x, stride, w, sums);
    } else {
      add_step<0>(x, stride, w, sums);
      if constexpr (DEEP<W> == 2) add_step<1>(x, stride, w, sums);
    }
  }
#pragma GCC unroll 8
  for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int64_t j = 0; j < VECTORS; ++j) vector::store(sums[i][j], partial + i * WIDTH + j * LANES);
}

// Does so for up to MOST rows and all columns of a panel.
template <int64_t MOST, bool FETCH, class W>
void add_rows(int64_t rows, const typename Rows<W>::Number* x, int64_t stride, const W* w,
              int64_t steps, float* partial) {
  if constexpr (MOST > 1)
    if (rows < MOST) return add_rows<MOST - 1, FETCH>(rows, x, stride, w, steps, partial);
  add_tile<MOST, FETCH>(x, stride, w, steps, partial);
  for (int64_t j = VECTORS * LANES; j < WIDTH; j += VECTORS * LANES)
    add_tile<MOST, false>(x, stride, w + j * DEEP<W>, steps, partial + j);
}

// Does so with 16 rows at once, by tiles.
inline void multiply_tiles(const Rows<Bfloat16>& x, const Bfloat16* w, float* sums) {
  constexpr int64_t K = UNIT<Bfloat16>, STRIDE = WIDTH * 4;
  const amx::Session session;
  for (int64_t i = 0; i < x.count; i += amx::ROWS, sums += amx::ROWS * WIDTH) {
    amx::clear<0>(), amx::clear<1>(), amx::clear<2>(), amx::clear<3>();
    const Bfloat16* from = w;
    for (int64_t k = 0; k < x.stride; k += K, from += K * WIDTH) {
      if (i == 0) fetch(from, K * WIDTH * sizeof *from);
      amx::load<4>(x.at(i) + k, x.stride * sizeof *from);
      amx::load<5>(from, STRIDE), amx::add_bf16<0, 4, 5>();
      amx::load<6>(from + 32, STRIDE), amx::add_bf16<1, 4, 6>();
      amx::load<7>(from + 64, STRIDE), amx::add_bf16<2, 4, 7>();
      amx::load<5>(from + 96, STRIDE), amx::add_bf16<3, 4, 5>();
    }
    amx::store<0>(sums, STRIDE), amx::store<1>(sums + 16, STRIDE);
    amx::store<2>(sums + 32, STRIDE), amx::store<3>(sums + 48, STRIDE);
  }
}

// sums `[rows][WIDTH]` = the products of rows with a panel; for whole tiles of rows, if TILES.
template <class W>
void multiply(const Rows<W>& x, const W* w, float* sums) {
  if constexpr (TILES && std::is_same_v<W, Bfloat16>) {
    multiply_tiles(x, w, sums);
  } else {
    constexpr int64_t STEPS = AT_ONCE / (DEEP<W> * WIDTH * sizeof(W));
    std::fill_n(sums, x.count * WIDTH, 0.0f);
    const int64_t height = divide_up(x.count, divide_up(x.count, TILE_ROWS));  // equal tiles
    for (int64_t s = 0, all = x.stride / DEEP<W>; s < all; s += STEPS) {
      const int64_t steps = std::min(STEPS, all - s);
      const auto* from = x.data + s * DEEP<W>;
      const W* weights = w + s * DEEP<W> * WIDTH;
      add_rows<TILE_ROWS, true>(height, from, x.stride, weights, steps, sums);
      for (int64_t i = height; i < x.count; i += height)
        add_rows<TILE_ROWS, false>(std::min(height, x.count - i), from + i * x.stride, x.stride,
                                   weights, steps, sums + i * WIDTH);
    }
  }
}

}  // namespace panel
