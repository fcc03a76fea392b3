// Work shared among the threads that XLA already has; none is started here.
//
// XLA's pool is as large as the process's CPU affinity, so threads and the memory that they touch
// first stay where the process was put (on A64FX: inside a core group).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

// XLA infers a handler's binding from its parameters; of its pool it has to be told.
template <>
struct xla::ffi::CtxBinding<xla::ffi::ThreadPool> {
  using Ctx = ThreadPool;
};

namespace pool {

// Calls `body(i)` for every i below `items`, each once, in any order, on several threads.
//
// The caller works too, and waits only for threads that have begun to help. So it ends even if
// every other thread of the pool is waiting for something: a helper that comes too late finds the
// job closed and leaves.
template <class Body>
void parallel_for(xla::ffi::ThreadPool threads, int64_t items, const Body& body) {
  struct Job {
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> helping{0};
    std::atomic<bool> closed{false};
  };
  const auto work = [items](Job& job, const Body& body) {
    for (int64_t i; (i = job.next.fetch_add(1, std::memory_order_relaxed)) < items;) body(i);
  };
  const int64_t helpers = std::min(items, threads.num_threads()) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < items; ++i) body(i);
    return;
  }
  const auto job = std::make_shared<Job>();
  for (int64_t helper = 0; helper < helpers; ++helper) {
    threads.Schedule([job, work, &body] {
      // First announced, then looked: the caller closes first and looks at `helping` then.
      job->helping.fetch_add(1);
      if (!job->closed.load()) work(*job, body);
      job->helping.fetch_sub(1);
      job->helping.notify_one();
    });
  }
  work(*job, body);
  job->closed.store(true);
  for (int64_t left; (left = job->helping.load()) > 0;) job->helping.wait(left);
}

}  // namespace pool
