// The products of attention's blocks, by tiles that stay in registers, and how their operands are
// packed.
#pragma once

#include "attention.h"

namespace attention {

// The rows of a tile that is V registers wide: as many sums as the instruction set has room for.
template <int64_t V>
constexpr int64_t ROWS = isa::TILE_ROWS * isa::TILE_VECTORS / V;

static_assert(UNIT % ROWS<1> == 0 && UNIT % ROWS<isa::TILE_VECTORS> == 0 &&
              UNIT % ROWS<isa::TILE_VECTORS + 1> == 0 && QUERIES % (isa::TILE_VECTORS * LANES) == 0);

// total[i][j] = sum over k of a(i, k) b(k, j); a(i, k) is a[i * stride + k], or with COLUMNS
// a[k * stride + i].
template <int64_t V, bool COLUMNS>
[[gnu::always_inline]] inline void multiply(const float* a, int64_t stride, const float* b,
                                            int64_t b_stride, int64_t depth,
                                            Float (&total)[ROWS<V>][V]) {
  Float sums[ROWS<V>][V];
#pragma GCC unroll 24
  for (int64_t i = 0; i < ROWS<V>; ++i)
#pragma GCC unroll 4
    for (int64_t j = 0; j < V; ++j) sums[i][j] = Float{};
  for (int64_t k = 0; k < depth; ++k, b += b_stride) {
    Float right[V];
#pragma GCC unroll 4
    for (int64_t j = 0; j < V; ++j) right[j] = load(b + j * LANES);
#pragma GCC unroll 24
    for (int64_t i = 0; i < ROWS<V>; ++i) {
      const Float left = vector::broadcast(COLUMNS ? a + k * stride + i : a + i * stride + k);
#pragma GCC unroll 4
      for (int64_t j = 0; j < V; ++j) sums[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 24
  for (int64_t i = 0; i < ROWS<V>; ++i)
#pragma GCC unroll 4
    for (int64_t j = 0; j < V; ++j) total[i][j] = sums[i][j];
}

// Computes [key][query] = rows(key, :) · columns(:, query) tile by tile; `use(key, query, tile)`
// gets the tile that begins there. `rows` is [keys][width], `columns` [depth][QUERIES].
template <class Use>
[[gnu::always_inline]] inline void each_tile(const float* rows, int64_t width, const float* columns,
                                             int64_t depth, int64_t keys, const Use& use) {
  constexpr int64_t V = isa::TILE_VECTORS;
  for (int64_t key = 0; key < keys; key += ROWS<V>)
    for (int64_t query = 0; query < QUERIES; query += V * LANES) {
      Float tile[ROWS<V>][V];
      multiply<V, false>(rows + key * width, width, columns + query, QUERIES, depth, tile);
      use(key, query, tile);
    }
}

// The part of a sum over k that counts for some rows of the result.
struct Range {
  int64_t begin, end;
};

// target(i, :) = target(i, :) × shrink[i] + sum over k of a(i, k) b(k, :), V registers wide.
//
// `a` is a block's [key][query]: with COLUMNS the rows are queries, else keys. `b` and `target`
// have rows of `width`. `range(i, n)` says which k count for rows i .. i + n.
template <int64_t V, bool COLUMNS, class RangeOf>
void add_chunk(const float* a, const float* b, float* target, int64_t rows, int64_t width,
               const float* shrink, const RangeOf& range) {
  for (int64_t i = 0; i < rows; i += ROWS<V>) {
    const auto [begin, end] = range(i, ROWS<V>);
    if (begin >= end) continue;
    Float total[ROWS<V>][V];
    multiply<V, COLUMNS>(COLUMNS ? a + begin * QUERIES + i : a + i * QUERIES + begin, QUERIES,
                         b + begin * width, width, end - begin, total);
#pragma GCC unroll 24
    for (int64_t r = 0; r < ROWS<V>; ++r) {
      float* row = target + (i + r) * width;
      const float factor = shrink ? shrink[i + r] : 1.0f;
#pragma GCC unroll 4
      for (int64_t j = 0; j < V; ++j)
        store(load(row + j * LANES) * factor + total[r][j], row + j * LANES);
    }
  }
}

// The same for all of the width, cut into tiles none of which is narrow if that can be.
template <bool COLUMNS, class RangeOf>
void add_product(const float* a, const float* b, float* target, int64_t rows, int64_t width,
                 const float* shrink, const RangeOf& range) {
  constexpr int64_t V = isa::TILE_VECTORS;
  for (int64_t left = width / LANES; left > 0;) {
    const int64_t rest = left % V;
    const bool wide = (rest == 1 && left > V) || (rest == 2 && left > 2 * V);
    const int64_t vectors = wide ? V + 1 : rest ? rest : V;
    if (vectors == V + 1)
      add_chunk<V + 1, COLUMNS>(a, b, target, rows, width, shrink, range);
    else if (vectors == V)
      add_chunk<V, COLUMNS>(a, b, target, rows, width, shrink, range);
    else if (vectors == 2)
      add_chunk<2, COLUMNS>(a, b, target, rows, width, shrink, range);
    else
      add_chunk<1, COLUMNS>(a, b, target, rows, width, shrink, range);
    b += vectors * LANES;
    target += vectors * LANES;
    left -= vectors;
  }
}

// Copies positions first .. first + count to rows of floats; whatever is filled up is 0.
template <class T>
void pack_rows(Head<const T> from, int64_t first, int64_t count, int64_t rows, const Shape& shape,
               float* target) {
  const int64_t width = shape.width();
  for (int64_t i = 0; i < count; ++i, target += width) {
    const T* source = from.at(first + i);
    for (int64_t k = 0; k < width; k += LANES)
      store(vector::load_some(source + k, std::min(LANES, shape.head_dim - k)), target + k);
  }
  std::fill_n(target, (rows - count) * width, 0.0f);
}

// Transposes QUERIES rows of floats to [head_dim][QUERIES], times `factor`.
inline void transpose_rows(const float* rows, const Shape& shape, float factor, float* target) {
  const int64_t width = shape.width();
  for (int64_t query = 0; query < QUERIES; query += LANES)
    for (int64_t k = 0; k < shape.head_dim; k += LANES) {
      Float square[LANES];
#pragma GCC unroll 16
      for (int64_t i = 0; i < LANES; ++i) square[i] = load(rows + (query + i) * width + k) * factor;
      vector::transpose(square);
#pragma GCC unroll 16
      for (int64_t i = 0; i < LANES; ++i)
        if (k + i < shape.head_dim) store(square[i], target + (k + i) * QUERIES + query);
    }
}

// Writes rows of floats to positions first .. first + count, times `factor(i)`.
template <class T, class Factor>
void unpack_rows(const float* rows, int64_t first, int64_t count, const Shape& shape, Head<T> to,
                 const Factor& factor) {
  const int64_t width = shape.width();
  for (int64_t i = 0; i < count; ++i, rows += width) {
    T* target = to.at(first + i);
    for (int64_t k = 0; k < shape.head_dim; k += LANES)
      vector::store_some(load(rows + k) * factor(i), target + k,
                         std::min(LANES, shape.head_dim - k));
  }
}

}  // namespace attention
