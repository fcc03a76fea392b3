// The custom call `fugaku_cached_attention`: each token of a batch attends to all of its row up to
// itself, whose keys and values lie in blocks.
//
// A token's result does not depend on the others that are not before it, nor on the threads.
#include <algorithm>
#include <cmath>

#include "dtypes.h"
#include "elementary.h"
#include "pool.h"
#include "scratch.h"
#include "transpose.h"
#include "vector.h"

namespace {

namespace ffi = xla::ffi;
using vector::Float;
using vector::LANES;

constexpr int64_t AT_ONCE = 4;  // registers of a head that are summed side by side

// Keys or values of one head of a row: `size` positions in each block, `stride` numbers from a
// position to the next.
template <class T>
struct Head {
  T* data;  // of block 0
  const int32_t* blocks;
  int64_t size, stride, width;

  T* block(int64_t index) const { return data + blocks[index] * size * stride; }
  T* at(int64_t position) const { return block(position / size) + position % size * stride; }
};

// scores[t] = scale q k[t], for `count` <= LANES positions from `from` on, each summed lane by lane
// first and then by halves, as `vector::sum` does.
template <class T>
[[gnu::always_inline]] inline void score(const T* q, const T* from, int64_t stride, int64_t width,
                                         int64_t count, float scale, float* scores) {
  Float sums[LANES]{};
  int64_t j = 0;
  for (; j + LANES <= width; j += LANES) {
    const Float part = vector::load(q + j);
#pragma GCC unroll 16
    for (int64_t t = 0; t < LANES; ++t)
      if (t < count) sums[t] += part * vector::load(from + t * stride + j);
  }
  if (j < width) {
    const Float part = vector::load_some(q + j, width - j);
#pragma GCC unroll 16
    for (int64_t t = 0; t < LANES; ++t)
      if (t < count) sums[t] += part * vector::load_some(from + t * stride + j, width - j);
  }
  vector::transpose(sums);
#pragma GCC unroll 4
  for (int64_t half = LANES / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
  vector::store_some(scale * sums[0], scores, count);
}

template <class T>
void score(const T* q, const Head<T>& k, int64_t positions, float scale, float* scores) {
  for (int64_t start = 0; start < positions; start += k.size) {
    const T* from = k.block(start / k.size);
    const int64_t end = std::min(positions, start + k.size);
    int64_t t = start;
    for (; t + LANES <= end; t += LANES, from += LANES * k.stride)
      score(q, from, k.stride, k.width, LANES, scale, scores + t);
    if (t < end) score(q, from, k.stride, k.width, end - t, scale, scores + t);
  }
}

// Turns scores into e^(score - max) and returns their sum.
float exponentials(float* scores, int64_t positions) {
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

// out = the sum over t of weights[t] v[t], divided by `divisor`, for V registers from `j` on; of
// the last one `last` numbers.
template <int64_t V, bool WHOLE, class T>
void mix(const float* weights, const Head<T>& v, int64_t positions, float divisor, int64_t j,
         int64_t last, T* out) {
  constexpr int64_t TURNS = 2;  // sums that are not waited for
  Float sums[TURNS][V]{};
  const auto add = [&](Float (&into)[V], float weight, const T* from) {
    const Float all = vector::splat(weight);
#pragma GCC unroll 4
    for (int64_t i = 0; i < V; ++i)
      into[i] += all * (WHOLE || i < V - 1 ? vector::load(from + i * LANES)
                                           : vector::load_some(from + i * LANES, last));
  };
  for (int64_t start = 0; start < positions; start += v.size) {
    const T* from = v.block(start / v.size) + j;
    const int64_t end = std::min(positions, start + v.size);
    int64_t t = start;
    for (; t + TURNS <= end; t += TURNS, from += TURNS * v.stride)
#pragma GCC unroll 2
      for (int64_t turn = 0; turn < TURNS; ++turn)
        add(sums[turn], weights[t + turn], from + turn * v.stride);
    for (; t < end; ++t, from += v.stride) add(sums[0], weights[t], from);
  }
  for (int64_t i = 0; i < V; ++i)
    vector::store_some((sums[0][i] + sums[1][i]) / divisor, out + j + i * LANES,
                       i < V - 1 ? LANES : last);
}

// Likewise, for what is left of a head from `j` on, at most V registers.
template <int64_t V, class T>
void mix(const float* weights, const Head<T>& v, int64_t positions, float divisor, int64_t j,
         T* out) {
  if constexpr (V > 1)
    if (j + (V - 1) * LANES >= v.width)
      return mix<V - 1>(weights, v, positions, divisor, j, out);
  const int64_t last = std::min(LANES, v.width - j - (V - 1) * LANES);
  if (last == LANES) return mix<V, true>(weights, v, positions, divisor, j, last, out);
  mix<V, false>(weights, v, positions, divisor, j, last, out);
}

template <class T>
void attend(const T* q, const Head<T>& k, const Head<T>& v, int64_t positions, T* out) {
  float* scores = scratch<struct Scores, float>(positions);
  score(q, k, positions, 1 / std::sqrt(float(k.width)), scores);
  const float divisor = exponentials(scores, positions);
  for (int64_t j = 0; j < k.width; j += AT_ONCE * LANES)
    mix<AT_ONCE>(scores, v, positions, divisor, j, out);
}

// Arguments: queries `[B, H, K]`, new keys and values `[B, G, K]`, those kept `[L, N, S, G, K]`
// (aliased with results), an int32, the layer, int32 `[B]`, the position of each token in its row,
// and int32 `[B, M]`, the blocks of that row. Results: `[B, H, K]`, and keys and values, to which
// the new ones were written.
ffi::Error run(ffi::ThreadPool threads, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
               ffi::AnyBuffer keys, ffi::AnyBuffer values, ffi::BufferR0<ffi::S32> layer,
               ffi::BufferR1<ffi::S32> positions, ffi::BufferR2<ffi::S32> tables,
               ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> keys_out,
               ffi::Result<ffi::AnyBuffer> values_out) {
  const auto of_q = q.dimensions(), of_k = k.dimensions(), kept = keys.dimensions();
  const auto like = [](ffi::AnyBuffer a, ffi::AnyBuffer b) {
    return a.element_type() == b.element_type() && std::ranges::equal(a.dimensions(), b.dimensions());
  };
  if (of_q.size() != 3 || of_k.size() != 3 || kept.size() != 5 || !like(k, v) || !like(q, *out) ||
      !like(keys, values) || q.element_type() != k.element_type() ||
      q.element_type() != keys.element_type() || of_q[0] != of_k[0] || tables.dimensions()[0] != of_q[0] ||
      of_k[1] != kept[3] || of_q[2] != of_k[2] || of_q[2] != kept[4] ||
      (of_k[1] ? of_q[1] % of_k[1] : of_q[1]) ||
      int64_t(positions.element_count()) != of_q[0])
    return ffi::Error::InvalidArgument("cached_attention: the operands do not fit each other");
  if (keys.untyped_data() != keys_out->untyped_data() ||
      values.untyped_data() != values_out->untyped_data() || !like(keys, *keys_out) ||
      !like(values, *values_out))
    return ffi::Error::InvalidArgument(
        "cached_attention: keys and values must be aliased with the results");
  const int64_t batch = of_q[0], blocks = kept[1], size = kept[2], groups = kept[3];
  const int64_t width = kept[4], shared = groups ? of_q[1] / groups : 0, stride = groups * width;
  const int64_t number = *layer.typed_data(), longest = tables.dimensions()[1];
  const int32_t *position = positions.typed_data(), *table = tables.typed_data();
  if (number < 0 || number >= kept[0])
    return ffi::Error::InvalidArgument("cached_attention: there is no such layer");
  if (std::any_of(position, position + batch,
                  [&](int32_t p) { return p < 0 || p >= longest * size; }))
    return ffi::Error::InvalidArgument("cached_attention: there is no such position");
  if (std::any_of(table, table + batch * longest, [&](int32_t b) { return b < 0 || b >= blocks; }))
    return ffi::Error::InvalidArgument("cached_attention: there is no such block");
  return dtypes::dispatch("cached_attention", q.element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const auto head = [&](ffi::AnyBuffer all, int64_t token, int64_t group) {
      const int64_t start = number * blocks * size * stride + group * width;
      return Head<T>{dtypes::data<T>(all) + start, table + token * longest, size, stride, width};
    };
    // All are written before any is read: tokens may be of one row.
    for (int64_t token = 0; token < batch; ++token) {
      const int64_t from = token * stride;
      std::copy_n(dtypes::data<T>(k) + from, stride, head(*keys_out, token, 0).at(position[token]));
      std::copy_n(dtypes::data<T>(v) + from, stride,
                  head(*values_out, token, 0).at(position[token]));
    }
    pool::parallel_for(threads, batch * groups, [&](int64_t task) {
      const int64_t token = task / groups, group = task % groups;
      for (int64_t from = task * shared; from < (task + 1) * shared; ++from)
        attend(dtypes::data<T>(q) + from * width, head(*keys_out, token, group),
               head(*values_out, token, group), position[token] + 1,
               dtypes::data<T>(*out) + from * width);
    }, true);
    return ffi::Error::Success();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_cached_attention, run);
