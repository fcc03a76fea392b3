// The products of attention's blocks, by tiles that stay in registers, and how their operands are
// packed.
#pragma once

#include "attention.h"
#include "packing.h"

namespace attention {

// The rows of a tile that is V registers wide: as many sums as the instruction set has room for.
template <int64_t V>
constexpr int64_t ROWS = isa::TILE_ROWS * isa::TILE_VECTORS / V;

static_assert(QUERIES % (isa::TILE_VECTORS * LANES) == 0);
// Tiles fill blocks, and a tile's rows are whole pairs.
template <int64_t V>
constexpr bool FIT = UNIT % ROWS<V> == 0 && ROWS<V> % 2 == 0;
static_assert(FIT<1> && FIT<2> && FIT<isa::TILE_VECTORS> && FIT<isa::TILE_VECTORS + 1>);

// Computes [key][query] = rows(key, :) · columns(:, query) tile by tile; `use(key, query, tile)`
// gets the tile that begins there. The operands are what `pack_rows` and `pack_columns` make.
template <class Kind, class Use, class Number = typename Kind::Number>
[[gnu::always_inline]] inline void each_tile(const Number* rows, const Number* columns,
                                             const Shape& shape, int64_t keys, const Use& use) {
  const int64_t steps = shape.steps<Kind>(), stride = shape.row_size<Kind>();
  constexpr int64_t V = isa::TILE_VECTORS;
  for (int64_t key = 0; key < keys; key += ROWS<V>)
    for (int64_t query = 0; query < QUERIES; query += V * LANES) {
      Float tile[ROWS<V>][V];
      tile::multiply<Kind, false>(rows + key * stride, stride, columns + query, QUERIES, steps,
                                  tile);
      use(key, query, tile);
    }
}

// Stores a block's x, of one key for the queries from `query` on, as left operand of a sum over
// queries: rows of numbers [key][QUERIES], which pairs fill by half.
template <class Kind, class Number = typename Kind::Number>
[[gnu::always_inline]] inline void store_row(Float x, Number* block, int64_t key, int64_t query) {
  if constexpr (std::is_same_v<Kind, tile::Singles>)
    store(x, block + key * QUERIES + query);
  else
    store(x, reinterpret_cast<vector::Bfloat16*>(block + key * QUERIES) + query);
}

// Does so as left operand of a sum over keys, [key / DEPTH][QUERIES]; x are the keys of a number.
template <class Kind, class Number = typename Kind::Number>
[[gnu::always_inline]] inline void store_column(const Float* x, Number* block, int64_t key,
                                                int64_t query) {
  Number* place = block + key / Kind::DEPTH * QUERIES + query;
  if constexpr (std::is_same_v<Kind, tile::Singles>) {
    store(x[0], place);
  } else {
    const Bits pairs = vector::narrow(x[0]) | vector::narrow(x[1]) << 16;
    std::memcpy(place, &pairs, sizeof pairs);
  }
}

// The part of a sum over k that counts for some rows of the result: whole pairs.
struct Range {
  int64_t begin, end;
};

// target(i, :) = target(i, :) × shrink[i] + sum over k of a(i, k) b(k, :), V registers wide.
//
// `a` is a block's [key][query]: with COLUMNS the rows are queries (`store_column`), else keys
// (`store_row`). `b` and `target` have rows of `width`, `b` from `pack_across`. `range(i, n)` says
// which k count for rows i .. i + n.
template <class Kind, int64_t V, bool COLUMNS, class RangeOf, class Number = typename Kind::Number>
void add_chunk(const Number* a, const Number* b, float* target, int64_t rows, int64_t width,
               const float* shrink, const RangeOf& range) {
  for (int64_t i = 0; i < rows; i += ROWS<V>) {
    const auto [begin, end] = range(i, ROWS<V>);
    if (begin >= end) continue;
    Float total[ROWS<V>][V];
    const int64_t step = begin / Kind::DEPTH, steps = (end - begin) / Kind::DEPTH;
    const Number* left = COLUMNS ? a + step * QUERIES + i : a + i * QUERIES + step;
    tile::multiply<Kind, COLUMNS>(left, QUERIES, b + step * width, width, steps, total);
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
template <class Kind, bool COLUMNS, class RangeOf, class Number = typename Kind::Number>
void add_product(const Number* a, const Number* b, float* target, int64_t rows, int64_t width,
                 const float* shrink, const RangeOf& range) {
  constexpr int64_t V = isa::TILE_VECTORS;
  for (int64_t left = width / LANES; left > 0;) {
    const int64_t rest = left % V;
    const bool wide = (rest == 1 && left > V) || (rest == 2 && left > 2 * V);
    const int64_t vectors = wide ? V + 1 : rest ? rest : V;
    if (vectors == V + 1)
      add_chunk<Kind, V + 1, COLUMNS>(a, b, target, rows, width, shrink, range);
    else if (vectors == V)
      add_chunk<Kind, V, COLUMNS>(a, b, target, rows, width, shrink, range);
    else if (vectors == 2)
      add_chunk<Kind, 2, COLUMNS>(a, b, target, rows, width, shrink, range);
    else
      add_chunk<Kind, 1, COLUMNS>(a, b, target, rows, width, shrink, range);
    b += vectors * LANES;
    target += vectors * LANES;
    left -= vectors;
  }
}

// Packs positions first .. first + count, and zeros up to `rows` of them, as left operand of a sum
// over head_dim: rows of numbers.
template <class Kind, class T>
void pack_rows(Head<const T> from, int64_t first, int64_t count, int64_t rows, const Shape& shape,
               typename Kind::Number* target) {
  const int64_t size = shape.row_size<Kind>();
  for (int64_t i = 0; i < count; ++i, target += size) {
    const T* source = from.at(first + i);
    for (int64_t s = 0; s < size; s += LANES) {
      const auto numbers =
          packing::along<Kind>(source + s * Kind::DEPTH, shape.head_dim - s * Kind::DEPTH);
      std::memcpy(target + s, &numbers, sizeof numbers);
    }
  }
  std::fill_n(target, (rows - count) * size, typename Kind::Number{});
}

// Does so as right operand of a sum over positions: [rows / DEPTH][width] numbers.
template <class Kind, class T>
void pack_across(Head<const T> from, int64_t first, int64_t count, int64_t rows,
                 const Shape& shape, typename Kind::Number* target) {
  const int64_t width = shape.width();
  for (int64_t i = 0; i < rows; i += Kind::DEPTH, target += width) {
    if (i >= count) {
      std::fill_n(target, width, typename Kind::Number{});
      continue;
    }
    const T* source = from.at(first + i);
    for (int64_t k = 0; k < width; k += LANES) {
      const auto numbers = packing::across<Kind>(source + k, from.stride, count - i,
                                                 std::min(LANES, shape.head_dim - k));
      std::memcpy(target + k, &numbers, sizeof numbers);
    }
  }
}

// Packs QUERIES positions, of which `count` are there, as right operand of a sum over head_dim:
// columns of numbers, [steps][QUERIES].
template <class Kind, class T>
void pack_columns(Head<const T> from, int64_t first, int64_t count, const Shape& shape,
                  typename Kind::Number* target) {
  using Register = typename Kind::Register;
  const int64_t steps = shape.steps<Kind>();
  for (int64_t query = 0; query < QUERIES; query += LANES)
    for (int64_t s = 0; s < steps; s += LANES) {
      Register square[LANES];
#pragma GCC unroll 16
      for (int64_t i = 0; i < LANES; ++i)
        square[i] = query + i < count
                        ? packing::along<Kind>(from.at(first + query + i) + s * Kind::DEPTH,
                                               shape.head_dim - s * Kind::DEPTH)
                        : Register{};
      vector::transpose(square);
#pragma GCC unroll 16
      for (int64_t i = 0; i < LANES; ++i)
        if (s + i < steps)
          std::memcpy(target + (s + i) * QUERIES + query, &square[i], sizeof(Register));
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
