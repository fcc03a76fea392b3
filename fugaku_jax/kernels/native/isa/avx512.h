// AVX-512: 32 registers of 16 floats.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace isa {

constexpr int BYTES = 64;
constexpr int TILE_ROWS = 8;  // 24 sums, 3 vectors of B, and A from memory by broadcast
constexpr int TILE_VECTORS = 3;
constexpr int64_t CACHE_BYTES = 512 * 1024;  // half of a core's L2

using Float = float __attribute__((vector_size(BYTES)));
using Bits = uint32_t __attribute__((vector_size(BYTES)));
using HalfScalar = _Float16;

// Between 16 bits in memory and 32 in a register.
[[gnu::always_inline]] inline Bits widen(const void* source) {
  return Bits(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(source))));
}

[[gnu::always_inline]] inline void narrow(Bits x, void* target) {
  _mm256_storeu_si256(static_cast<__m256i*>(target), _mm512_cvtepi32_epi16(__m512i(x)));
}

[[gnu::always_inline]] inline Float from_half(const void* source) {
  return Float(_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(source))));
}

[[gnu::always_inline]] inline void to_half(Float x, void* target) {
  _mm256_storeu_si256(static_cast<__m256i*>(target),
                      _mm512_cvtps_ph(__m512(x), _MM_FROUND_TO_NEAREST_INT));
}

// To an aligned place, past the caches.
[[gnu::always_inline]] inline void stream(Float x, float* target) {
  _mm512_stream_ps(target, __m512(x));
}

}  // namespace isa
