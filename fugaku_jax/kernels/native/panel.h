// A panel of a matrix that is laid out for generation, and rows as a product takes them.
//
// A panel is WIDTH columns. Numbers of the depth that one instruction multiplies lie together:
// `[depth / DEEP][WIDTH][DEEP]`, and the depth is filled up by zeros to a multiple of UNIT, which is
// what a tile of AMX multiplies at once. Every instruction set reads the same panels.
#pragma once

#include <algorithm>
#include <type_traits>

#include "isa/amx.h"
#include "scratch.h"
#include "vector.h"

namespace panel {

using amx::TILES;
using vector::Bfloat16;
using vector::Bits;
using vector::Float;
using vector::LANES;

constexpr int64_t WIDTH = 64;  // as Python packs them

template <class W>
constexpr int64_t DEEP = 1;
template <>
constexpr int64_t DEEP<Bfloat16> = 2;
template <>
constexpr int64_t DEEP<int8_t> = 4;

template <class W>
constexpr int64_t UNIT = DEEP<W> == 1 ? 1 : 16 * DEEP<W>;

// A tile's sums in registers, as many as in matmul.h but of an even number of registers, which
// divides a panel.
constexpr int64_t VECTORS = isa::TILE_VECTORS + isa::TILE_VECTORS % 2;
constexpr int64_t TILE_ROWS = isa::TILE_ROWS * isa::TILE_VECTORS / VECTORS;
static_assert(WIDTH % (VECTORS * LANES) == 0);

// Bytes of weights that are multiplied by all rows before the next ones are: they stay in the first
// cache, while those AHEAD of them come from memory.
constexpr int64_t AT_ONCE = 16 * 1024, AHEAD = 8 * 1024;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// The depth of a matrix of so many rows as its panels have it.
template <class W>
constexpr int64_t filled(int64_t depth) { return round_up(depth, UNIT<W>); }

// Asks for `bytes` of weights that come AHEAD bytes after these.
[[gnu::always_inline]] inline void fetch(const void* w, int64_t bytes) {
  for (int64_t byte = 0; byte < bytes; byte += 64)
    __builtin_prefetch(static_cast<const char*>(w) + AHEAD + byte, 0, 2);
}

// Rows that are multiplied by weights of type W: as bf16, if pairs or tiles are, and as fp32 else.
template <class W>
struct Rows {
  static constexpr bool NARROW = std::is_same_v<W, Bfloat16> && (vector::PAIRS || TILES);
  using Number = std::conditional_t<NARROW, Bfloat16, float>;

  Number* data;
  int64_t count, stride;

  Number* at(int64_t row) const { return data + row * stride; }
};

// Returns rows, filled up by zeros where products of whole tiles read them.
template <class W, class T>
Rows<W> take_rows(const T* x, int64_t count, int64_t depth) {
  using Number = typename Rows<W>::Number;
  const int64_t stride = filled<W>(depth), all = round_up(count, TILES ? amx::ROWS : 1);
  const Rows<W> rows{scratch<struct Taken, Number>(all * stride), count, stride};
  for (int64_t i = 0; i < count; ++i, x += depth) {
    for (int64_t k = 0; k < depth; k += LANES) {
      const int64_t some = std::min(LANES, depth - k);
      vector::store_some(vector::load_some(x + k, some), rows.at(i) + k, some);
    }
    std::fill(rows.at(i) + depth, rows.at(i) + stride, Number{});
  }
  std::fill(rows.at(count), rows.at(all), Number{});
  return rows;
}

}  // namespace panel
