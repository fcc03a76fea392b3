// What the machine can do at most: multiply-adds on registers alone, on all threads at once.
#include "pool.h"
#include "vector.h"

namespace {

namespace ffi = xla::ffi;
using vector::Float;

constexpr int SUMS = isa::TILE_ROWS * isa::TILE_VECTORS;  // independent, so that none waits

// Gives one number for each task; a task does `rounds` multiply-adds on each of SUMS registers.
// The second result tells how many multiply-adds of one element a round is.
ffi::Error fma_peak(ffi::ThreadPool threads, int64_t rounds,
                    ffi::Result<ffi::BufferR1<ffi::F32>> sums,
                    ffi::Result<ffi::BufferR0<ffi::S32>> operations) {
  operations->typed_data()[0] = SUMS * vector::LANES;
  const int64_t tasks = sums->element_count();
  pool::parallel_for(threads, tasks, [&](int64_t task) {
    Float sum[SUMS];
#pragma GCC unroll 32
    for (int i = 0; i < SUMS; ++i) sum[i] = vector::splat(i);
    Float factor = vector::splat(0.5f), term = vector::splat(1.0f);
    for (int64_t round = 0; round < rounds; ++round) {
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

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_fma_peak, fma_peak,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Attr<int64_t>("rounds")
                                  .Ret<ffi::BufferR1<ffi::F32>>()
                                  .Ret<ffi::BufferR0<ffi::S32>>());
