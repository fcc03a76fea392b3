// AVX2 with FMA and F16C: 16 registers of 8 floats.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace isa {

constexpr int BYTES = 32;
constexpr int TILE_ROWS = 6;  // 12 sums, 2 vectors of B, one broadcast of A
constexpr int TILE_VECTORS = 2;
constexpr int64_t CACHE_BYTES = 256 * 1024;  // half of a small L2

using Float = float __attribute__((vector_size(BYTES)));
using Bits = uint32_t __attribute__((vector_size(BYTES)));
using HalfScalar = _Float16;

// Between 16 bits in memory and 32 in a register.
[[gnu::always_inline]] inline Bits widen(const void* source) {
  return Bits(_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(source))));
}

[[gnu::always_inline]] inline void narrow(Bits x, void* target) {
  using Narrow = uint16_t __attribute__((vector_size(BYTES / 2)));
  const Narrow narrow = __builtin_convertvector(x, Narrow);
  std::memcpy(target, &narrow, sizeof narrow);
}

[[gnu::always_inline]] inline Float from_half(const void* source) {
  return Float(_mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(source))));
}

[[gnu::always_inline]] inline void to_half(Float x, void* target) {
  _mm_storeu_si128(static_cast<__m128i*>(target),
                   _mm256_cvtps_ph(__m256(x), _MM_FROUND_TO_NEAREST_INT));
}

// To an aligned place, past the caches.
[[gnu::always_inline]] inline void stream(Float x, float* target) {
  _mm256_stream_ps(target, __m256(x));
}

}  // namespace isa
