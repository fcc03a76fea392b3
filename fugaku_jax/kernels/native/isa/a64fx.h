// A64FX: SVE with registers of 512 bits, 32 of them. The code is undefined on another length.
#pragma once

#include <arm_sve.h>

#include <cstdint>

namespace isa {

constexpr int BYTES = 64;
constexpr int TILE_ROWS = 8;  // 24 sums, 3 vectors of B, and A from memory by LD1RW
constexpr int TILE_VECTORS = 3;
constexpr int64_t CACHE_BYTES = 512 * 1024;  // of a core group's 8 MiB of L2, which 12 cores share

using Float = float __attribute__((vector_size(BYTES)));
using HalfScalar = __fp16;

// The compiler would convert lane by lane.
[[gnu::always_inline]] inline Float from_half(const void* source) {
  const svbool_t all = svptrue_b32();
  const svuint32_t wide = svld1uh_u32(all, static_cast<const uint16_t*>(source));
  return Float(svcvt_f32_x(all, svreinterpret_f16(wide)));
}

[[gnu::always_inline]] inline void to_half(Float x, void* target) {
  const svbool_t all = svptrue_b32();
  const svfloat16_t narrow = svcvt_f16_x(all, svfloat32_t(x));
  svst1h(all, static_cast<uint16_t*>(target), svreinterpret_u32(narrow));
}

// To an aligned place, past the caches.
[[gnu::always_inline]] inline void stream(Float x, float* target) {
  svstnt1(svptrue_b32(), target, svfloat32_t(x));
}

}  // namespace isa
