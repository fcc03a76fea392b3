// Functions of one element at a time, and how an array is cut for its threads.
#pragma once

#include <algorithm>

#include "pool.h"
#include "vector.h"

namespace elementwise {

using vector::Float;
using vector::LANES;

constexpr int64_t BLOCK = 1 << 14;  // elements of a task: enough for its start not to count
constexpr int64_t AT_ONCE = 4;      // registers whose arithmetic is interleaved

inline bool alike(xla::ffi::AnyBuffer a, xla::ffi::AnyBuffer b) {
  return a.element_type() == b.element_type() &&
         std::ranges::equal(a.dimensions(), b.dimensions());
}

// Calls `body(i, count, j)` for the registers of `length` elements; j < AT_ONCE takes turns.
template <class Body>
[[gnu::always_inline]] inline void for_each_register(int64_t length, const Body& body) {
  int64_t i = 0;
  for (; i + AT_ONCE * LANES <= length; i += AT_ONCE * LANES) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < AT_ONCE; ++j) body(i + j * LANES, LANES, j);
  }
  for (; i < length; i += LANES) body(i, std::min(LANES, length - i), 0);
}

// What was added up register by register, in turns.
[[gnu::always_inline]] inline float total(const Float (&sums)[AT_ONCE]) {
  return vector::sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Calls `body(start, count)` for each block of an array, on several threads.
template <class Body>
void for_each_block(xla::ffi::ThreadPool threads, int64_t count, const Body& body) {
  pool::parallel_for(threads, (count + BLOCK - 1) / BLOCK, [&](int64_t block) {
    body(block * BLOCK, std::min(BLOCK, count - block * BLOCK));
  });
}

// target[i] = function(sources[i]...), in registers of floats; target may be one of the sources.
template <class T, class Function, class... Source>
void apply(xla::ffi::ThreadPool threads, int64_t count, T* target, const Function& function,
           const Source*... sources) {
  for_each_block(threads, count, [&](int64_t start, int64_t length) {
    const int64_t end = start + length;
    int64_t i = start;
    for (; i + AT_ONCE * LANES <= end; i += AT_ONCE * LANES) {
      Float y[AT_ONCE];
#pragma GCC unroll 4
      for (int64_t j = 0; j < AT_ONCE; ++j)
        y[j] = function(vector::load(sources + i + j * LANES)...);
#pragma GCC unroll 4
      for (int64_t j = 0; j < AT_ONCE; ++j) vector::store(y[j], target + i + j * LANES);
    }
    for (; i < end; i += LANES) {
      const int64_t some = std::min(LANES, end - i);
      vector::store_some(function(vector::load_some(sources + i, some)...), target + i, some);
    }
  });
}

}  // namespace elementwise
