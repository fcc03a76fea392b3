// What the machine can do at most, on all threads at once: multiply-adds on registers alone, and
// streams through memory.
#include "elementwise.h"
#include "pool.h"
#include "vector.h"

namespace {

namespace ffi = xla::ffi;
using vector::Float;

constexpr int SUMS = isa::TILE_ROWS * isa::TILE_VECTORS;  // independent, so that none waits

constexpr char ROUNDS[] = "rounds";

// Gives one number for each task; a task does `rounds` multiply-adds on each of SUMS registers.
// The second result tells how many multiply-adds of one element a round is.
ffi::Error fma_peak(ffi::ThreadPool threads, ffi::Attr<int64_t, ROUNDS> rounds,
                    ffi::Result<ffi::BufferR1<ffi::F32>> sums,
                    ffi::Result<ffi::BufferR0<ffi::S32>> operations) {
  operations->typed_data()[0] = SUMS * vector::LANES;
  const int64_t tasks = sums->element_count();
  pool::parallel_for(threads, tasks, [&](int64_t task) {
    Float sum[SUMS];
#pragma GCC unroll 32
    for (int i = 0; i < SUMS; ++i) sum[i] = vector::splat(i);
    Float factor = vector::splat(0.5f), term = vector::splat(1.0f);
    for (int64_t round = 0; round < *rounds; ++round) {
      asm volatile("" ::: "memory");  // not to be computed beforehand
#pragma GCC unroll 32
      for (int i = 0; i < SUMS; ++i) sum[i] = sum[i] * factor + term;
    }
#pragma GCC unroll 32
    for (int i = 1; i < SUMS; ++i) sum[0] += sum[i];
    sums->typed_data()[task] = vector::sum(sum[0]);
  });
  return ffi::Error::Success();
}

// Stores past the caches where the instruction set can: a line that is written whole need not be
// read before.
template <class F>
[[gnu::always_inline]] inline void store_past(F x, float* target) {
  if constexpr (requires { isa::stream(x, target); })
    isa::stream(x, target);
  else
    vector::store(x, target);
}

constexpr char IN_PLACE[] = "in_place";
constexpr int64_t AHEAD = 512;  // elements, by which memory is asked for before its use

// a = b + 3 c past the caches or, in place, a = a + b + 3 c: all of one length and fp32, and the
// result is in a's memory.
ffi::Error stream(ffi::ThreadPool threads, ffi::BufferR1<ffi::F32> a, ffi::BufferR1<ffi::F32> b,
                  ffi::BufferR1<ffi::F32> c, ffi::Result<ffi::BufferR1<ffi::F32>> sum,
                  ffi::Attr<bool, IN_PLACE> in_place) {
  const size_t count = a.element_count();
  float *x = b.typed_data(), *y = c.typed_data(), *target = sum->typed_data();
  if (b.element_count() != count || c.element_count() != count ||
      sum->element_count() != count || target != a.typed_data() || count % vector::LANES != 0)
    return ffi::Error::InvalidArgument(
        "stream: there must be three arrays of whole registers, the first aliased to the result");
  elementwise::for_each_block(threads, count, [&](int64_t start, int64_t length) {
    for (int64_t i = start; i < start + length; i += vector::LANES) {
      __builtin_prefetch(x + i + AHEAD);
      __builtin_prefetch(y + i + AHEAD);
      const Float term = vector::load(x + i) + 3.0f * vector::load(y + i);
      if (*in_place) {
        __builtin_prefetch(target + i + AHEAD, 1);
        vector::store(vector::load(target + i) + term, target + i);
      } else {
        store_past(term, target + i);
      }
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_fma_peak, fma_peak);
XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_stream, stream);
