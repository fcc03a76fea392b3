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
using Bits = uint32_t __attribute__((vector_size(BYTES)));
using HalfScalar = __fp16;
using Halves = HalfScalar __attribute__((vector_size(BYTES)));

// Between 16 bits in memory and 32 in a register; the compiler would take lane by lane.
[[gnu::always_inline]] inline Bits widen(const void* source) {
  return Bits(svld1uh_u32(svptrue_b32(), static_cast<const uint16_t*>(source)));
}

[[gnu::always_inline]] inline void narrow(Bits x, void* target) {
  svst1h(svptrue_b32(), static_cast<uint16_t*>(target), svuint32_t(x));
}

[[gnu::always_inline]] inline Float from_half(const void* source) {
  return Float(svcvt_f32_x(svptrue_b32(), svreinterpret_f16(svuint32_t(widen(source)))));
}

[[gnu::always_inline]] inline void to_half(Float x, void* target) {
  narrow(Bits(svreinterpret_u32(svcvt_f16_x(svptrue_b32(), svfloat32_t(x)))), target);
}

// A number from memory in all lanes (LD1RW). The compiler would load it for itself and copy it then,
// which takes the units that multiply and add.
[[gnu::always_inline]] inline Float broadcast(const float* x) {
  Float all;
  asm("ld1rw {%0.s}, %1/z, %2" : "=w"(all) : "Upl"(svptrue_b32()), "Uty"(*x));
  return all;
}

[[gnu::always_inline]] inline Halves broadcast(const HalfScalar* x) {
  Halves all;
  asm("ld1rh {%0.h}, %1/z, %2" : "=w"(all) : "Upl"(svptrue_b16()), "Uty"(*x));
  return all;
}

// Adds the halves of even lanes to the first of two registers in memory, those of odd ones to the
// second. One call ends before the next begins: the compiler would have too much in registers else.
[[gnu::always_inline]] inline void add_halves(Halves x, Float* sums) {
  asm volatile("" : "+w"(x) : : "memory");
  const svuint32_t odd = svlsr_x(svptrue_b32(), svreinterpret_u32(svfloat16_t(x)), 16);
  sums[0] += Float(svcvt_f32_x(svptrue_b32(), svfloat16_t(x)));
  sums[1] += Float(svcvt_f32_x(svptrue_b32(), svreinterpret_f16(odd)));
}

// 2^(n + i / 64), where bits 6 to 13 of x are n + 127 and the six below them i (FEXPA).
[[gnu::always_inline]] inline Float table_exp2(Float x) {
  return Float(svexpa(svreinterpret_u32(svfloat32_t(x))));
}

// To an aligned place, past the caches.
[[gnu::always_inline]] inline void stream(Float x, float* target) {
  svstnt1(svptrue_b32(), target, svfloat32_t(x));
}

}  // namespace isa
