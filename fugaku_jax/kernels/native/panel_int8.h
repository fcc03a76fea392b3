// Sums of rows times a panel of int8.
//
// Each GROUP of a row is made int8 too, with a scale of its own, so that a great number spoils only
// its neighbours. Products of a group add up in int32, exactly, whatever the instruction is; groups
// add up in fp32, in their order.
#pragma once

#include "panel.h"

namespace panel {

using Int = vector::Int;

constexpr int64_t GROUP = UNIT<int8_t>, QUADS = GROUP / 4;

#ifdef __AVX512VNNI__
constexpr bool UNSIGNED = true;  // weights are multiplied plus 128, which `starts` make good
#else
constexpr bool UNSIGNED = false;
#endif

template <>
struct Rows<int8_t> {
  int8_t* data;    // [rows][stride]
  float* scales;   // [rows][groups]
  int32_t* starts; // likewise: what sums of products begin with
  int64_t count, stride;

  int64_t groups() const { return stride / GROUP; }
  int8_t* at(int64_t row) const { return data + row * stride; }
};

// Makes a group int8 and returns its scale: NaN if a number is not finite.
template <class T>
float quantise(const T* x, int64_t count, int8_t* to) {
  constexpr float SHIFT = 12582912;  // 1.5 * 2^23: what is added to it is rounded to an integer
  using Bytes = int8_t __attribute__((vector_size(LANES)));
  Float greatest{}, zeros{};
  for (int64_t k = 0; k < count; k += LANES) {
    const Float x_k = vector::load_some(x + k, std::min(LANES, count - k));
    greatest = vector::max(greatest, vector::max(x_k, -x_k));
    zeros += x_k * 0;
  }
  const float most = vector::max(greatest), factor = most > 0 ? 127 / most : 0;
  for (int64_t k = 0; k < GROUP; k += LANES) {
    Float x_k{};
    if (k < count) x_k = vector::load_some(x + k, std::min(LANES, count - k));
    const Int whole = std::bit_cast<Int>(x_k * factor + SHIFT) - std::bit_cast<int32_t>(SHIFT);
    const Bytes bytes = __builtin_convertvector(whole, Bytes);
    std::memcpy(to + k, &bytes, sizeof bytes);
  }
  return most / 127 + vector::sum(zeros);
}

template <class T>
Rows<int8_t> quantise_rows(const T* x, int64_t count, int64_t depth) {
  const int64_t stride = filled<int8_t>(depth), all = round_up(count, TILES ? amx::ROWS : 1);
  const int64_t groups = stride / GROUP;
  const Rows<int8_t> rows{scratch<struct Quantised, int8_t>(all * stride),
                          scratch<struct Scales, float>(count * groups),
                          scratch<struct Starts, int32_t>(count * groups), count, stride};
  for (int64_t group = 0; group < count * groups; ++group) {
    const int64_t row = group / groups, k = group % groups * GROUP;
    int8_t* to = rows.at(row) + k;
    rows.scales[group] = quantise(x + row * depth + k, std::min(GROUP, depth - k), to);
    int32_t sum = 0;
    for (int64_t i = 0; i < GROUP; ++i) sum += to[i];
    rows.starts[group] = UNSIGNED ? -128 * sum : 0;
  }
  std::fill(rows.at(count), rows.at(all), int8_t{});
  return rows;
}

// sum + the four products of each lane's bytes.
[[gnu::always_inline]] inline Int add_quads(Int sum, Bits w, uint32_t x) {
#ifdef __AVX512VNNI__
  return Int(_mm512_dpbusd_epi32(__m512i(sum), __m512i(w), _mm512_set1_epi32(x)));
#else
#pragma GCC unroll 4
  for (int bits = 24; bits >= 0; bits -= 8)
    sum += (Int(w << bits) >> 24) * (int32_t(x << bits) >> 24);
  return sum;
#endif
}

// Adds a group of ROWS rows times some columns.
template <int64_t ROWS>
[[gnu::always_inline]] inline void add_group(const Rows<int8_t>& x, int64_t row, int64_t group,
                                             const int8_t* w, float* sums) {
  const int64_t place = row * x.groups() + group;
  Int whole[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int64_t j = 0; j < VECTORS; ++j) whole[i][j] = x.starts[place + i * x.groups()] - Int{};
  const int8_t* from = x.at(row) + group * GROUP;
  for (int64_t s = 0; s < QUADS; ++s, from += 4, w += 4 * WIDTH) {
    Bits right[VECTORS];
#pragma GCC unroll 4
    for (int64_t j = 0; j < VECTORS; ++j) {
      std::memcpy(&right[j], w + j * LANES * 4, sizeof right[j]);
      if constexpr (UNSIGNED) right[j] ^= 0x80808080;
    }
#pragma GCC unroll 8
    for (int64_t i = 0; i < ROWS; ++i) {
      uint32_t left;
      std::memcpy(&left, from + i * x.stride, sizeof left);
#pragma GCC unroll 4
      for (int64_t j = 0; j < VECTORS; ++j) whole[i][j] = add_quads(whole[i][j], right[j], left);
    }
  }
#pragma GCC unroll 8
  for (int64_t i = 0; i < ROWS; ++i) {
    const Float scale = vector::broadcast(x.scales + place + i * x.groups());
#pragma GCC unroll 4
    for (int64_t j = 0; j < VECTORS; ++j) {
      float* sum = sums + i * WIDTH + j * LANES;
      vector::store(vector::load(sum) + scale * __builtin_convertvector(whole[i][j], Float), sum);
    }
  }
}

// Does so for up to MOST rows and all columns of a panel.
template <int64_t MOST>
void add_group_to(int64_t rows, const Rows<int8_t>& x, int64_t row, int64_t group, const int8_t* w,
                  float* sums) {
  if constexpr (MOST > 1)
    if (rows < MOST) return add_group_to<MOST - 1>(rows, x, row, group, w, sums);
  for (int64_t j = 0; j < WIDTH; j += VECTORS * LANES)
    add_group<MOST>(x, row, group, w + j * 4, sums + j);
}

// Does so with 16 rows at once, by tiles.
inline void multiply_tiles(const Rows<int8_t>& x, const int8_t* w, float* sums) {
  constexpr int64_t STRIDE = WIDTH * 4;
  alignas(64) int32_t whole[amx::ROWS][WIDTH];
  const amx::Session session;
  for (int64_t row = 0; row < x.count; row += amx::ROWS) {
    const int8_t* from = w;
    for (int64_t group = 0; group < x.groups(); ++group, from += GROUP * WIDTH) {
      if (row == 0) fetch(from, GROUP * WIDTH);
      amx::clear<0>(), amx::clear<1>(), amx::clear<2>(), amx::clear<3>();
      amx::load<4>(x.at(row) + group * GROUP, x.stride);
      amx::load<5>(from, STRIDE), amx::add_int8<0, 4, 5>();
      amx::load<6>(from + 64, STRIDE), amx::add_int8<1, 4, 6>();
      amx::load<7>(from + 128, STRIDE), amx::add_int8<2, 4, 7>();
      amx::load<5>(from + 192, STRIDE), amx::add_int8<3, 4, 5>();
      amx::store<0>(whole[0], STRIDE), amx::store<1>(whole[0] + 16, STRIDE);
      amx::store<2>(whole[0] + 32, STRIDE), amx::store<3>(whole[0] + 48, STRIDE);
      for (int64_t i = 0; i < std::min(amx::ROWS, x.count - row); ++i) {
        const Float scale = vector::broadcast(x.scales + (row + i) * x.groups() + group);
        float* to = sums + (row + i) * WIDTH;
        for (int64_t j = 0; j < WIDTH; j += LANES) {
          Int here;
          std::memcpy(&here, whole[i] + j, sizeof here);
          vector::store(vector::load(to + j) + scale * __builtin_convertvector(here, Float), to + j);
        }
      }
    }
  }
}

// sums `[rows][WIDTH]` = the products of rows with a panel.
inline void multiply(const Rows<int8_t>& x, const int8_t* w, float* sums) {
  std::fill_n(sums, x.count * WIDTH, 0.0f);
  if (TILES && x.count >= 4) return multiply_tiles(x, w, sums);  // fewer take no less time
  const int64_t height = divide_up(x.count, divide_up(x.count, TILE_ROWS));  // equal tiles
  for (int64_t group = 0; group < x.groups(); ++group, w += GROUP * WIDTH) {
    fetch(w, GROUP * WIDTH);
    for (int64_t row = 0; row < x.count; row += height)
      add_group_to<TILE_ROWS>(std::min(height, x.count - row), x, row, group, w, sums + row * WIDTH);
  }
}

}  // namespace panel
