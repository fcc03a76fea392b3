// How the tiles of a product lie while it is computed: what is read together lies together.
#pragma once

#include <algorithm>

#include "transpose.h"
#include "vector.h"

namespace packing {

using vector::Float;
using vector::LANES;
using vector::load;
using vector::load_some;
using vector::store;
using vector::store_some;
using vector::to_float;

// A matrix in row order, of which `op(X)` is used: itself, or its transpose.
template <class T>
struct Matrix {
  const T* data;
  int64_t stride;  // values from a row to the next, as it lies
  bool transposed;

  const T* at(int64_t row, int64_t column) const {
    return transposed ? data + column * stride + row : data + row * stride + column;
  }
};

// Packs op(X)[row .. row + depth, column .. column + width] as `[depth][PANEL]` floats; columns
// from `width` on are 0. PANEL is a multiple of LANES.
template <int64_t PANEL, class T>
void pack_panel(const Matrix<T>& x, int64_t row, int64_t depth, int64_t column, int64_t width,
                float* target) {
  for (int64_t lane = 0; lane < PANEL; lane += LANES) {
    const int64_t here = std::clamp(width - lane, int64_t(0), LANES);
    if (here == 0) {
      for (int64_t k = 0; k < depth; ++k) store(Float{}, target + k * PANEL + lane);
    } else if (x.transposed) {
      for (int64_t k = 0; k < depth; k += LANES) {
        const int64_t some = std::min(LANES, depth - k);
        Float square[LANES];
#pragma GCC unroll 16
        for (int64_t i = 0; i < LANES; ++i)
          square[i] = i < here ? load_some(x.at(row + k, column + lane + i), some) : Float{};
        vector::transpose(square);
#pragma GCC unroll 16
        for (int64_t i = 0; i < LANES; ++i)
          if (i < some) store(square[i], target + (k + i) * PANEL + lane);
      }
    } else {
      const T* source = x.at(row, column + lane);
      for (int64_t k = 0; k < depth; ++k, source += x.stride)
        store(here == LANES ? load(source) : load_some(source, here), target + k * PANEL + lane);
    }
  }
}

// Copies op(X)[row .. row + height, column .. column + depth] to floats in tiles of ROWS rows: row
// by row (`[ROWS][depth]`) as X lies, or if transposed column by column (`[depth][ROWS]`). Rows of
// the last tile from `height` on are 0.
template <int64_t ROWS, class T>
void pack_tiles(const Matrix<T>& x, int64_t row, int64_t height, int64_t column, int64_t depth,
                float* target) {
  const int64_t whole = height / ROWS, left = height % ROWS;
  float* last = target + whole * ROWS * depth;
  if (left > 0) std::fill_n(last, ROWS * depth, 0.0f);
  if (!x.transposed) {
    for (int64_t i = 0; i < height; ++i, target += depth) {
      const T* source = x.at(row + i, column);
      int64_t k = 0;
      for (; k + LANES <= depth; k += LANES) store(load(source + k), target + k);
      if (k < depth) store_some(load_some(source + k, depth - k), target + k, depth - k);
    }
    return;
  }
  constexpr int64_t AHEAD = 8;  // rows of X, each perhaps on a page of its own
  for (int64_t k = 0; k < depth; ++k) {
    const T* source = x.at(row, column + k);
    if (k + AHEAD < depth)
      for (int64_t i = 0; i < height; i += 64 / sizeof(T))
        __builtin_prefetch(source + AHEAD * x.stride + i);
    for (int64_t tile = 0; tile < whole; ++tile)
      for (int64_t i = 0; i < ROWS; ++i)
        target[(tile * depth + k) * ROWS + i] = to_float(source[tile * ROWS + i]);
    for (int64_t i = 0; i < left; ++i) last[k * ROWS + i] = to_float(source[whole * ROWS + i]);
  }
}

}  // namespace packing
