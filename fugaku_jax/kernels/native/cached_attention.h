// Attention of a few queries to keys and values in blocks: two products, with a softmax between.
//
// A query's numbers are added one after the other, in the same order however many queries there are
// beside it, so what it finds does not depend on them.
#pragma once

#include <algorithm>
#include <type_traits>

#include "elementary.h"
#include "vector.h"

namespace cached_attention {

using vector::Float;
using vector::LANES;

constexpr int64_t QUERIES = 6;  // most that are multiplied side by side
// Registers of sums of each: all together as many as a tile of a product has.
constexpr int64_t COLUMNS = isa::TILE_ROWS * isa::TILE_VECTORS / QUERIES;

// The blocks of one head of a row: keys `[K, S]`, values `[S, K]` in each, `stride` from one to the
// next of the cache.
template <class T>
struct Head {
  const T* data;  // of block 0
  const int32_t* blocks;
  int64_t stride, width, size;

  const T* block(int64_t index) const { return data + blocks[index] * stride; }
};

// Where register `index` of `count` numbers begins: the last one moves back into the one before it
// rather than beyond the end.
inline int64_t start_of(int64_t index, int64_t count) {
  return std::max(std::min(index * LANES, count - LANES), int64_t{0});
}

inline int64_t registers(int64_t count) { return (count + LANES - 1) / LANES; }

// Loads a register of `count` numbers in all, which fill it if `WHOLE`.
template <bool WHOLE, class T>
[[gnu::always_inline]] inline Float load(const T* source, int64_t count) {
  if constexpr (WHOLE) return vector::load(source);
  return vector::load_some(source, count);
}

// Stores it likewise.
template <bool WHOLE>
[[gnu::always_inline]] inline void store(Float x, float* target, int64_t count) {
  if constexpr (WHOLE) vector::store(x, target);
  else vector::store_some(x, target, count);
}

// scores[t] = scale q k[t] for the t of C registers of positions, of which a block has `in_block`,
// from `strip` on.
template <int64_t Q, int64_t C, bool WHOLE, class T>
void score(const float* q, const Head<T>& k, int64_t strip, int64_t in_block, float scale,
           float* scores, int64_t room) {
  const T* from[C];
  float* to[C];
  for (int64_t i = 0; i < C; ++i) {
    const int64_t block = (strip + i) / in_block, start = start_of((strip + i) % in_block, k.size);
    from[i] = k.block(block) + start;
    to[i] = scores + block * k.size + start;
  }
  Float sums[Q][C]{};
  for (int64_t d = 0; d < k.width; ++d) {
    Float keys[C];
#pragma GCC unroll 4
    for (int64_t i = 0; i < C; ++i) keys[i] = load<WHOLE>(from[i] + d * k.size, k.size);
#pragma GCC unroll 6
    for (int64_t n = 0; n < Q; ++n) {
      const Float all = vector::broadcast(q + n * k.width + d);
#pragma GCC unroll 4
      for (int64_t i = 0; i < C; ++i) sums[n][i] += all * keys[i];
    }
  }
  for (int64_t n = 0; n < Q; ++n)
    for (int64_t i = 0; i < C; ++i)
      store<WHOLE>(scale * sums[n][i], to[i] + n * room, k.size);
}

// sums = before + the sum of weights[t] v[t] over t from `first` to before `end`, for C registers of
// a head from `column` on.
template <int64_t Q, int64_t C, bool WHOLE, class T>
void mix(const float* weights, int64_t room, const Head<T>& v, int64_t first, int64_t end,
         int64_t column, const float* before, float* sums) {
  int64_t at[C];
  Float sum[Q][C];
  for (int64_t i = 0; i < C; ++i) at[i] = start_of(column + i, v.width);
  for (int64_t n = 0; n < Q; ++n)
    for (int64_t i = 0; i < C; ++i)
      sum[n][i] = load<WHOLE>(before + n * v.width + at[i], v.width);
  for (int64_t t = first; t < end;) {
    const T* from = v.block(t / v.size) + t % v.size * v.width;
    const int64_t stop = std::min(end, (t / v.size + 1) * v.size);
    for (; t < stop; ++t, from += v.width) {
      Float values[C];
#pragma GCC unroll 4
      for (int64_t i = 0; i < C; ++i) values[i] = load<WHOLE>(from + at[i], v.width);
#pragma GCC unroll 6
      for (int64_t n = 0; n < Q; ++n) {
        const Float all = vector::broadcast(weights + n * room + t);
#pragma GCC unroll 4
        for (int64_t i = 0; i < C; ++i) sum[n][i] += all * values[i];
      }
    }
  }
  for (int64_t n = 0; n < Q; ++n)
    for (int64_t i = 0; i < C; ++i) store<WHOLE>(sum[n][i], sums + n * v.width + at[i], v.width);
}

// Calls `body(number, from)` for parts of what is from `first` to before `end`, at most N in each.
template <int64_t N, class Body>
void in_parts(int64_t first, int64_t end, const Body& body) {
  for (; end - first >= N; first += N) body(std::integral_constant<int64_t, N>{}, first);
  if constexpr (N > 1) in_parts<(N > 2 ? N - 2 : 1)>(first, end, body);
}

// Calls `body(whole)`.
template <class Body>
void with_whole(bool whole, const Body& body) {
  whole ? body(std::true_type{}) : body(std::false_type{});
}

// scores[t] = q k[t] / sqrt(K) for all t in blocks from `first` to before `end`. Queries are
// `[count, K]`, scores `[count, room]`.
template <class T>
void score(int64_t count, const float* q, const Head<T>& k, int64_t first, int64_t end, float* scores,
           int64_t room) {
  const float scale = 1 / std::sqrt(float(k.width));
  const int64_t in_block = registers(k.size);
  with_whole(k.size >= LANES, [&](auto whole) {
    in_parts<QUERIES>(0, count, [&](auto queries, int64_t n) {
      in_parts<COLUMNS>(first * in_block, end * in_block, [&](auto columns, int64_t strip) {
        score<queries, columns, whole>(q + n * k.width, k, strip, in_block, scale, scores + n * room,
                                       room);
      });
    });
  });
}

// sums = before + the sum of weights[t] v[t] over t from `first` to before `end`. Sums are
// `[count, K]`, weights `[count, room]`.
template <class T>
void mix(int64_t count, const float* weights, int64_t room, const Head<T>& v, int64_t first,
         int64_t end, const float* before, float* sums) {
  with_whole(v.width >= LANES, [&](auto whole) {
    in_parts<QUERIES>(0, count, [&](auto queries, int64_t n) {
      in_parts<COLUMNS>(0, registers(v.width), [&](auto columns, int64_t column) {
        mix<queries, columns, whole>(weights + n * room, room, v, first, end, column,
                                     before + n * v.width, sums + n * v.width);
      });
    });
  });
}

// Turns scores into e^(score - max) and returns their sum.
inline float exponentials(float* scores, int64_t positions) {
  Float highest = vector::splat(-vector::INFINITE), sums{};
  int64_t t = 0;
  for (; t + LANES <= positions; t += LANES)
    highest = vector::max(vector::load(scores + t), highest);
  const int64_t some = positions - t;
  const Float rest = vector::load_some(scores + t, some, -vector::INFINITE);
  const float greatest = vector::max(vector::max(rest, highest));
  for (t = 0; t + LANES <= positions; t += LANES) {
    const Float x = vector::exp(vector::load(scores + t) - greatest);
    sums += x;
    vector::store(x, scores + t);
  }
  const Float last = vector::exp(rest - greatest);  // 0 beyond the end
  vector::store_some(last, scores + t, some);
  return vector::sum(sums + last);
}

// out = factor x, for `count` numbers.
template <class From, class To>
void convert(const From* x, int64_t count, float factor, To* out) {
  for (int64_t j = 0; j < count; j += LANES) {
    const int64_t some = std::min(LANES, count - j);
    vector::store_some(factor * vector::load_some(x + j, some), out + j, some);
  }
}

}  // namespace cached_attention
