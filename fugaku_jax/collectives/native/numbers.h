// The types that are summed, and in which type: bf16 and fp16 in fp32, rounded once at the end.
#pragma once

#include <cstring>

#include "vector.h"

namespace torus {

enum Type : uint32_t { F32, BF16, F16, I32, BYTES };  // BYTES are only gathered

inline int64_t size_of(uint32_t type) {
  return type == BYTES ? 1 : type == BF16 || type == F16 ? 2 : 4;
}

// What is added up, and sent while it is.
inline int64_t size_of_sum(uint32_t type) { return type == BYTES ? 1 : 4; }

template <class T>
void widen(const T* source, float* target, int64_t count) {
  for (int64_t i = 0; i < count; i += vector::LANES) {
    const int64_t some = std::min(vector::LANES, count - i);
    vector::store_some(vector::load_some(source + i, some), target + i, some);
  }
}

template <class T>
void narrow(const float* source, T* target, int64_t count) {
  for (int64_t i = 0; i < count; i += vector::LANES) {
    const int64_t some = std::min(vector::LANES, count - i);
    vector::store_some(vector::load_some(source + i, some), target + i, some);
  }
}

// From elements to summands.
inline void widen(uint32_t type, const std::byte* source, std::byte* target, int64_t count) {
  float* wide = reinterpret_cast<float*>(target);
  if (type == BF16) return widen(reinterpret_cast<const vector::Bfloat16*>(source), wide, count);
  if (type == F16) return widen(reinterpret_cast<const vector::Half*>(source), wide, count);
  std::memcpy(target, source, size_t(count * size_of(type)));
}

// From sums to elements.
inline void narrow(uint32_t type, const std::byte* source, std::byte* target, int64_t count) {
  const float* wide = reinterpret_cast<const float*>(source);
  if (type == BF16) return narrow(wide, reinterpret_cast<vector::Bfloat16*>(target), count);
  if (type == F16) return narrow(wide, reinterpret_cast<vector::Half*>(target), count);
  std::memcpy(target, source, size_t(count * size_of(type)));
}

// Adds what was received to this process's own.
inline void add(uint32_t type, const std::byte* source, std::byte* target, int64_t count) {
  if (type == I32) {
    const uint32_t* x = reinterpret_cast<const uint32_t*>(source);
    uint32_t* y = reinterpret_cast<uint32_t*>(target);
    for (int64_t i = 0; i < count; ++i) y[i] += x[i];  // wraps round, as XLA's does
    return;
  }
  const float* x = reinterpret_cast<const float*>(source);
  float* y = reinterpret_cast<float*>(target);
  for (int64_t i = 0; i < count; i += vector::LANES) {
    const int64_t some = std::min(vector::LANES, count - i);
    vector::store_some(vector::load_some(y + i, some) + vector::load_some(x + i, some), y + i,
                       some);
  }
}

}  // namespace torus
