// Arithmetic on whole registers, written once for every instruction set.
//
// A `Float` is a register of fp32; `+ - * / < ? :` and the like work lane by lane (GCC's vector
// extension, which turns `a * b + c` into one multiply-add). The header of the instruction set, on
// the compiler's command line as ISA, says how wide it is and does what the extension cannot.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include ISA
#include "xla/ffi/api/ffi.h"

namespace vector {

namespace ffi = xla::ffi;

using isa::Float;
using Int = int32_t __attribute__((vector_size(isa::BYTES)));
using Bits = isa::Bits;

constexpr int64_t LANES = isa::BYTES / sizeof(float);

// Narrow types as they lie in memory.
struct Bfloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(Bfloat16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }
inline float to_float(Half x) { return std::bit_cast<isa::HalfScalar>(x.bits); }

[[gnu::always_inline]] inline Float splat(float x) { return x - Float{}; }

[[gnu::always_inline]] inline Float broadcast(const float* x) {
#ifdef __ARM_FEATURE_SVE
  return isa::broadcast(x);
#else
  return splat(*x);
#endif
}

// As many fp16 as a register holds.
using Halves = isa::HalfScalar __attribute__((vector_size(isa::BYTES)));

// Whether fp16 is multiplied and added as such, a register at once. (Tests define it to run what
// uses this.)
#if defined(__ARM_FEATURE_SVE) || defined(FUGAKU_JAX_HALVES)
constexpr bool HALVES = true;
#else
constexpr bool HALVES = false;
#endif

[[gnu::always_inline]] inline Halves broadcast(const isa::HalfScalar* x) {
#ifdef __ARM_FEATURE_SVE
  return isa::broadcast(x);
#else
  Halves all;
  for (size_t i = 0; i < sizeof all / sizeof *x; ++i) all[i] = *x;
  return all;
#endif
}

// Adds the numbers of even lanes to sums[0], those of odd ones to sums[1].
[[gnu::always_inline]] inline void add_halves(Halves x, Float* sums) {
#ifdef __ARM_FEATURE_SVE
  isa::add_halves(x, sums);
#else
  for (int64_t i = 0; i < 2 * LANES; ++i) sums[i % 2][i / 2] += x[i];
#endif
}

[[gnu::always_inline]] inline Float load(const float* source) {
  Float x;
  std::memcpy(&x, source, sizeof x);
  return x;
}

[[gnu::always_inline]] inline Float load(const Half* source) { return isa::from_half(source); }

[[gnu::always_inline]] inline Float load(const Bfloat16* source) {
  return std::bit_cast<Float>(isa::widen(source) << 16);
}

[[gnu::always_inline]] inline void store(Float x, float* target) {
  std::memcpy(target, &x, sizeof x);
}

[[gnu::always_inline]] inline void store(Float x, Half* target) { isa::to_half(x, target); }

// As bf16, in the lower half of each lane. Rounds to nearest, ties to even; a NaN stays one.
[[gnu::always_inline]] inline Bits narrow(Float x) {
  const Bits bits = std::bit_cast<Bits>(x);
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits quiet = (bits >> 16) | 0x40;
  return x == x ? rounded : quiet;
}

[[gnu::always_inline]] inline void store(Float x, Bfloat16* target) {
  isa::narrow(narrow(x), target);
}

// Whether two products of bf16 are one instruction. (Tests define it to run what uses this.)
#if defined(__AVX512BF16__) || defined(FUGAKU_JAX_PAIRS)
constexpr bool PAIRS = true;
#else
constexpr bool PAIRS = false;
#endif

// sum + the products of the lower and of the upper bf16 of each lane.
[[gnu::always_inline]] inline Float add_pairs(Float sum, Bits a, Bits b) {
#ifdef __AVX512BF16__
  return Float(_mm512_dpbf16_ps(__m512(sum), std::bit_cast<__m512bh>(a), std::bit_cast<__m512bh>(b)));
#else
  sum += std::bit_cast<Float>(a << 16) * std::bit_cast<Float>(b << 16);
  return sum + std::bit_cast<Float>(a & 0xffff0000) * std::bit_cast<Float>(b & 0xffff0000);
#endif
}

// The first `count` <= LANES values; the other lanes are `fill`.
template <class T>
[[gnu::always_inline]] inline Float load_some(const T* source, int64_t count, float fill = 0) {
  if (count == LANES) return load(source);
  T part[LANES]{};
  std::memcpy(part, source, count * sizeof(T));
  Float x = load(part);
  if (fill != 0)
    for (int64_t i = count; i < LANES; ++i) x[i] = fill;
  return x;
}

template <class T>
[[gnu::always_inline]] inline void store_some(Float x, T* target, int64_t count) {
  if (count == LANES) return store(x, target);
  T part[LANES];
  store(x, part);
  std::memcpy(target, part, count * sizeof(T));
}

[[gnu::always_inline]] inline float sum(Float x) {
  // By halves, so that the order is the same whatever the compiler does.
  for (int64_t width = LANES / 2; width > 0; width /= 2)
    for (int64_t i = 0; i < width; ++i) x[i] += x[i + width];
  return x[0];
}

[[gnu::always_inline]] inline Float max(Float a, Float b) { return a > b ? a : b; }

[[gnu::always_inline]] inline float max(Float x) {
  for (int64_t width = LANES / 2; width > 0; width /= 2)
    for (int64_t i = 0; i < width; ++i) x[i] = x[i] > x[i + width] ? x[i] : x[i + width];
  return x[0];
}

}  // namespace vector
