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

// scores[t] = scale q k[t]
template <class T>
void score(const T* q, const Head<T>& k, int64_t positions, float scale, float* scores) {
  for (int64_t start = 0; start < positions; start += k.size) {
    const T* from = k.block(start / k.size);
    const int64_t end = std::min(positions, start + k.size);
    for (int64_t t = start; t < end; ++t, from += k.stride) {
      Float sum{};
      for (int64_t j = 0; j < k.width; j += LANES) {
        const int64_t some = std::min(LANES, k.width - j);
        sum += vector::load_some(q + j, some) * vector::load_some(from + j, some);
      }
      scores[t] = scale * vector::sum(sum);
    }
  }
}

// Turns scores into e^(score - max) and returns their sum.
float exponentials(float* scores, int64_t positions) {
  const float greatest = *std::max_element(scores, scores + positions);
  Float sums{};
  for (int64_t t = 0; t < positions; t += LANES) {
    const int64_t some = std::min(LANES, positions - t);
    const Float x = vector::exp(
        vector::load_some(scores + t, some, -vector::INFINITE) - greatest);  // 0 beyond the end
    sums += x;
    vector::store_some(x, scores + t, some);
  }
  return vector::sum(sums);
}

// out = the sum over t of weights[t] v[t], divided by `divisor`, for V registers from `j` on.
template <int64_t V, class T>
void mix(const float* weights, const Head<T>& v, int64_t positions, float divisor, int64_t j,
         T* out) {
  if constexpr (V > 1)
    if (j + (V - 1) * LANES >= v.width)
      return mix<V - 1>(weights, v, positions, divisor, j, out);
  const int64_t last = std::min(LANES, v.width - j - (V - 1) * LANES);  // numbers of the last one
  Float sums[V]{};
  for (int64_t start = 0; start < positions; start += v.size) {
    const T* from = v.block(start / v.size) + j;
    const int64_t end = std::min(positions, start + v.size);
    for (int64_t t = start; t < end; ++t, from += v.stride) {
      const Float weight = vector::broadcast(weights + t);
#pragma GCC unroll 4
      for (int64_t i = 0; i < V - 1; ++i) sums[i] += weight * vector::load(from + i * LANES);
      sums[V - 1] += weight * vector::load_some(from + (V - 1) * LANES, last);
    }
  }
  for (int64_t i = 0; i < V; ++i)
    vector::store_some(sums[i] / divisor, out + j + i * LANES, i < V - 1 ? LANES : last);
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
    });
    return ffi::Error::Success();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_cached_attention, run);
