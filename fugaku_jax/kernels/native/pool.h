// Work shared among the threads that XLA already has; none is started here.
//
// XLA's pool is as large as the process's CPU affinity, so threads and the memory that they touch
// first stay where the process was put (on A64FX: inside a core group).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "waiting.h"
#include "xla/ffi/api/ffi.h"

// XLA infers a handler's binding from its parameters; of its pool it has to be told.
template <>
struct xla::ffi::CtxBinding<xla::ffi::ThreadPool> {
  using Ctx = ThreadPool;
};

namespace pool {

// While it lives, this thread's numbers below the normal ones count as 0 on A64FX, where each costs
// about 90 cycles. (Elsewhere XLA's own setting stays.)
//
// FPCR.FZ is for fp32 and fp64, and leaves conversions from and to fp16 alone. FZ16, which is for
// arithmetic in fp16, stays off: half of fp16's gradients may be below its normal numbers, 6e-5.
class FlushDenormals {
#ifdef __ARM_FEATURE_SVE
 public:
  FlushDenormals() { __builtin_aarch64_set_fpcr64(before_ | FZ); }
  ~FlushDenormals() { __builtin_aarch64_set_fpcr64(before_); }
  FlushDenormals(const FlushDenormals&) = delete;

 private:
  static constexpr uint64_t FZ = 1 << 24;
  const uint64_t before_ = __builtin_aarch64_get_fpcr64();
#endif
};

// Calls `body(i)` for every i below `items`, each once, in any order, on several threads.
//
// The caller works too, and waits only for threads that have begun to help. So it ends even if
// every other thread of the pool is waiting for something: a helper that comes too late finds the
// job closed and leaves. Where `more` of them follow soon, helpers wait for the next a while.
template <class Body>
void parallel_for(xla::ffi::ThreadPool threads, int64_t items, const Body& body, bool more = false) {
  struct Job {
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> helping{0};
    std::atomic<bool> closed{false};
  };
  const auto work = [items](Job& job, const Body& body) {
    [[maybe_unused]] const FlushDenormals flush;
    for (int64_t i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < items;) body(i);
  };
  const int64_t helpers = std::min(items, threads.num_threads()) - 1;
  if (helpers <= 0) {
    [[maybe_unused]] const FlushDenormals flush;
    for (int64_t i = 0; i < items; ++i) body(i);
    return;
  }
  const auto job = std::make_shared<Job>();
  for (int64_t helper = 0; helper < helpers; ++helper) {
    const auto help = [job, work, &body] {
      // First announced, then looked: the caller closes first and looks at `helping` then.
      job->helping.fetch_add(1);
      if (!job->closed.load()) work(*job, body);
      job->helping.fetch_sub(1);
      job->helping.notify_one();
    };
    if (more && Waiting::hand(help)) continue;
    threads.Schedule([help, more] {
      help();
      if (more) Waiting::wait();
    });
  }
  work(*job, body);
  job->closed.store(true);
  for (int i = 0; more && i < 100 && job->helping.load() > 0; ++i) pause();
  for (int64_t left; (left = job->helping.load()) > 0;) job->helping.wait(left);
}

}  // namespace pool
