// What every CPU has that GCC compiles for: 4 floats a vector (SSE2, NEON).
#pragma once

#include <cstdint>
#include <cstring>

namespace isa {

constexpr int BYTES = 16;
constexpr int TILE_ROWS = 4;  // 8 sums and what they need fit SSE's 16 registers
constexpr int TILE_VECTORS = 2;
constexpr int64_t CACHE_BYTES = 256 * 1024;

using Float = float __attribute__((vector_size(BYTES)));
using Bits = uint32_t __attribute__((vector_size(BYTES)));
#ifdef __aarch64__
using HalfScalar = __fp16;  // GCC 12 has no _Float16 there in C++
#else
using HalfScalar = _Float16;
#endif

// Between 16 bits in memory and 32 in a register.
[[gnu::always_inline]] inline Bits widen(const void* source) {
  uint16_t narrow[4];
  std::memcpy(narrow, source, sizeof narrow);
  return Bits{narrow[0], narrow[1], narrow[2], narrow[3]};
}

[[gnu::always_inline]] inline void narrow(Bits x, void* target) {
  using Narrow = uint16_t __attribute__((vector_size(BYTES / 2)));
  const Narrow narrow = __builtin_convertvector(x, Narrow);
  std::memcpy(target, &narrow, sizeof narrow);
}

[[gnu::always_inline]] inline Float from_half(const void* source) {
  HalfScalar half[4];
  std::memcpy(half, source, sizeof half);
  return Float{float(half[0]), float(half[1]), float(half[2]), float(half[3])};
}

[[gnu::always_inline]] inline void to_half(Float x, void* target) {
  const HalfScalar half[4] = {HalfScalar(x[0]), HalfScalar(x[1]), HalfScalar(x[2]),
                              HalfScalar(x[3])};
  std::memcpy(target, half, sizeof half);
}

// Has no way past the caches.
[[gnu::always_inline]] inline void stream(Float x, float* target) {
  std::memcpy(target, &x, sizeof x);
}

}  // namespace isa
