// How the operands of a product lie while it is computed: what is read together lies together.
#pragma once

#include <algorithm>
#include <array>

#include "tile.h"
#include "transpose.h"

namespace packing {

using tile::Halves;
using tile::Pairs;
using tile::Singles;
using tile::Tiles;
using vector::Bfloat16;
using vector::Bits;
using vector::Float;
using vector::Half;
using vector::LANES;
using vector::load_some;

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

// Reads a matrix as it is; another such function may return what else is to be multiplied.
struct AsItIs {
  template <class T>
  [[gnu::always_inline]] Float operator()(const T* values, int64_t count) const {
    return load_some(values, count);
  }
};

// A register of numbers of a kind from a row, along which the sum runs; `count` values are there.
// Halves come as pairs, as if a step of their sum had two.
template <class Kind, class T, class Read = AsItIs>
[[gnu::always_inline]] inline auto along(const T* row, int64_t count, const Read& read = {}) {
  using Narrow = std::conditional_t<std::is_same_v<Kind, Halves>, Half, Bfloat16>;
  if constexpr (std::is_same_v<Kind, Singles>) {
    return read(row, std::min(LANES, count));
  } else if constexpr (std::is_same_v<T, Narrow> && std::is_same_v<Read, AsItIs>) {
    Bits pairs{};
    if (count >= 2 * LANES)
      std::memcpy(&pairs, row, sizeof pairs);  // of a size that the compiler knows
    else
      std::memcpy(&pairs, row, count * sizeof(T));
    return pairs;
  } else {
    Narrow narrow[2 * LANES]{};
    vector::store(read(row, std::min(LANES, count)), narrow);
    if (count > LANES)
      vector::store(read(row + LANES, std::min(LANES, count - LANES)), narrow + LANES);
    return along<Kind>(narrow, 2 * LANES);
  }
}

// LANES numbers of a kind from rows `stride` apart, which follow each other in the sum: `count`
// values of each row, and as many rows as there are, up to what a number holds.
template <class Kind, class T, class Read = AsItIs>
[[gnu::always_inline]] inline auto across(const T* first, [[maybe_unused]] int64_t stride,
                                          [[maybe_unused]] int64_t rows, int64_t count,
                                          const Read& read = {}) {
  if constexpr (std::is_same_v<Kind, Singles>) {
    return read(first, count);
  } else if constexpr (std::is_same_v<Kind, Halves>) {
    std::array<Half, LANES> numbers;
    vector::store(read(first, count), numbers.data());
    return numbers;
  } else {
    Bits low = std::bit_cast<Bits>(read(first, count)), high{};
    if (rows > 1) high = std::bit_cast<Bits>(read(first + stride, count));
    if constexpr (std::is_same_v<T, Bfloat16> && std::is_same_v<Read, AsItIs>) {  // is in the upper half already
      return low >> 16 | high;
    } else {
      low = vector::narrow(std::bit_cast<Float>(low));
      return low | vector::narrow(std::bit_cast<Float>(high)) << 16;
    }
  }
}

constexpr int64_t AHEAD = 16;  // rows that are asked for early: each may be on a page of its own

// Packs op(X)[row .. row + depth, column .. column + width], rows being what is summed over, as
// `[steps][PANEL]` numbers, or for AMX as tiles, `[steps / UNIT][PANEL / 16][UNIT][16]`. Columns from
// `width` on are 0, and so are steps that no rows are left for. PANEL is a multiple of LANES.
template <class Kind, int64_t PANEL, class T>
void pack_panel(const Matrix<T>& x, int64_t row, int64_t depth, int64_t column, int64_t width,
                typename Kind::Number* target) {
  constexpr int64_t DEPTH = Kind::DEPTH;
  const int64_t steps = tile::steps_of<Kind>(depth);
  const auto place = [target](int64_t s, int64_t lane) {
    if constexpr (!std::is_same_v<Kind, Tiles>) return target + s * PANEL + lane;
    constexpr int64_t UNIT = tile::UNIT<Tiles>, WIDTH = amx::BYTES / sizeof *target;
    return target + s / UNIT * UNIT * PANEL + lane / WIDTH * UNIT * WIDTH + s % UNIT * WIDTH +
           lane % WIDTH;
  };
  if (!x.transposed) {
    const T* source = x.at(row, column);
    const int64_t filled = (depth + DEPTH - 1) / DEPTH;
    for (int64_t s = filled; s < steps; ++s)
      for (int64_t lane = 0; lane < PANEL; lane += LANES)
        std::fill_n(place(s, lane), LANES, typename Kind::Number{});
    for (int64_t s = 0; s < filled; ++s, source += DEPTH * x.stride) {
      const int64_t rows = depth - s * DEPTH;
      for (int64_t k = AHEAD; k < std::min(AHEAD + DEPTH, rows); ++k)
        for (int64_t j = 0; j < width; j += 64 / sizeof(T))
          __builtin_prefetch(source + k * x.stride + j);
#pragma GCC unroll 4
      for (int64_t lane = 0; lane < PANEL; lane += LANES) {
        const int64_t here = std::clamp(width - lane, int64_t(0), LANES);
        const auto packed = across<Kind>(source + lane, x.stride, rows, here);
        std::memcpy(place(s, lane), &packed, sizeof packed);
      }
    }
    return;
  }
  using Register = decltype(along<Kind>(x.data, 0));
  for (int64_t lane = 0; lane < PANEL; lane += LANES) {
    const int64_t here = std::clamp(width - lane, int64_t(0), LANES);
    for (int64_t s = 0; s < steps; s += tile::NUMBERS<Kind>) {
      const int64_t some = std::min(tile::NUMBERS<Kind>, steps - s);
      Register square[LANES];
#pragma GCC unroll 16
      for (int64_t i = 0; i < LANES; ++i)
        square[i] = i < here && s * DEPTH < depth
                        ? along<Kind>(x.at(row + s * DEPTH, column + lane + i), depth - s * DEPTH)
                        : Register{};
      vector::transpose(square);
#pragma GCC unroll 16
      for (int64_t i = 0; i < LANES; ++i) {
        if constexpr (std::is_same_v<Kind, Halves>) {
          if (2 * i < some) isa::narrow(square[i], place(s + 2 * i, lane));
          if (2 * i + 1 < some) isa::narrow(square[i] >> 16, place(s + 2 * i + 1, lane));
        } else if (i < some) {
          std::memcpy(place(s + i, lane), &square[i], sizeof square[i]);
        }
      }
    }
  }
}

// Packs op(X)[row .. row + height, column .. column + depth], columns being what is summed over, in
// tiles of ROWS rows: row by row (`[ROWS][steps]`) as X lies, or if transposed column by column
// (`[steps][ROWS]`). Rows of the last tile from `height` on are 0.
template <class Kind, int64_t ROWS, class T, class Read>
void pack_tiles(const Matrix<T>& x, int64_t row, int64_t height, int64_t column, int64_t depth,
                const Read& read, typename Kind::Number* target) {
  using Number = typename Kind::Number;
  constexpr int64_t DEPTH = Kind::DEPTH;
  const int64_t steps = (depth + DEPTH - 1) / DEPTH;
  const int64_t whole = height / ROWS, left = height % ROWS;
  Number* last = target + whole * ROWS * steps;
  if (left > 0) std::fill_n(last, ROWS * steps, Number{});
  if (!x.transposed) {
    for (int64_t i = 0; i < height; ++i, target += steps)
      for (int64_t s = 0; s < steps; s += tile::NUMBERS<Kind>) {
        const auto packed = along<Kind>(x.at(row + i, column + s * DEPTH), depth - s * DEPTH,
                                        read);
        if (steps - s >= tile::NUMBERS<Kind>)
          std::memcpy(target + s, &packed, sizeof packed);  // of a size that the compiler knows
        else
          std::memcpy(target + s, &packed, (steps - s) * sizeof(Number));
      }
    return;
  }
  static_assert(ROWS <= LANES);
  constexpr int64_t TILES = LANES / ROWS;  // that a row's numbers reach over
  for (int64_t s = 0; s < steps; ++s) {
    const T* source = x.at(row, column + s * DEPTH);
    const int64_t rows = depth - s * DEPTH;
    for (int64_t k = AHEAD; k < std::min(AHEAD + DEPTH, rows); ++k)
      for (int64_t i = 0; i < height; i += 64 / sizeof(T))
        __builtin_prefetch(source + k * x.stride + i);
    for (int64_t tile = 0; tile < whole; tile += TILES) {
      const auto packed =
          across<Kind>(source + tile * ROWS, x.stride, rows, std::min(TILES, whole - tile) * ROWS,
                       read);
#pragma GCC unroll 4
      for (int64_t i = 0; i < TILES; ++i)
        if (tile + i < whole)
          std::memcpy(target + ((tile + i) * steps + s) * ROWS,
                      reinterpret_cast<const Number*>(&packed) + i * ROWS, ROWS * sizeof(Number));
    }
    if (left > 0) {
      const auto rest = across<Kind>(source + whole * ROWS, x.stride, rows, left, read);
      std::memcpy(last + s * ROWS, &rest, left * sizeof(Number));
    }
  }
}

// Does so for AMX: tiles of ROWS rows as `[steps / UNIT][ROWS][UNIT]`, however X lies; rows of the
// last from `height` on are 0, and so are steps that no columns are left for.
template <class T, class Read>
void pack_for_amx(const Matrix<T>& x, int64_t row, int64_t height, int64_t column, int64_t depth,
                  const Read& read, Tiles::Number* target) {
  constexpr int64_t DEPTH = Tiles::DEPTH, ROWS = tile::ROWS<Tiles>, UNIT = tile::UNIT<Tiles>;
  const int64_t steps = tile::steps_of<Tiles>(depth);
  const auto place = [&](int64_t i, int64_t s) {
    return target + i / ROWS * ROWS * steps + s / UNIT * ROWS * UNIT + i % ROWS * UNIT + s % UNIT;
  };
  for (int64_t i = 0; i < (height + ROWS - 1) / ROWS * ROWS; i += LANES)
    for (int64_t s = 0; s < steps; s += LANES) {
      Bits square[LANES];
      const int64_t rows = height - i, products = depth - s * DEPTH;
#pragma GCC unroll 16
      for (int64_t k = 0; k < LANES; ++k) {
        square[k] = Bits{};
        if (!x.transposed && k < rows && products > 0)
          square[k] = along<Tiles>(x.at(row + i + k, column + s * DEPTH), products, read);
        else if (x.transposed && rows > 0 && k * DEPTH < products)
          square[k] = across<Tiles>(x.at(row + i, column + (s + k) * DEPTH), x.stride,
                                    products - k * DEPTH, std::min(LANES, rows), read);
      }
      if (x.transposed) vector::transpose(square);
#pragma GCC unroll 16
      for (int64_t k = 0; k < LANES; ++k) std::memcpy(place(i + k, s), &square[k], sizeof(Bits));
    }
}

}  // namespace packing
