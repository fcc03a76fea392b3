// Threads in which those who wait for a collective go on.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace torus {

// XLA goes on in the thread that tells it of an end, perhaps for the rest of its program. So that
// is never the thread that messages need, nor one in which another waits to be told.
class Threads {
 public:
  void run(std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    if (tasks_.size() > idle_) {
      std::thread([this] { serve(); }).detach();
      ++idle_;
    }
    changed_.notify_one();
  }

 private:
  void serve() {
    flush_denormals();
    for (std::unique_lock lock(mutex_);;) {
      changed_.wait(lock, [this] { return !tasks_.empty(); });
      const auto task = std::move(tasks_.front());
      tasks_.pop_front();
      --idle_;
      lock.unlock();
      task();
      lock.lock();
      ++idle_;
    }
  }

  // As in XLA's own threads.
  static void flush_denormals() {
#if defined(__SSE__)
    _mm_setcsr(_mm_getcsr() | 0x8040);
#elif defined(__aarch64__)
    uint64_t control;
    asm volatile("mrs %0, fpcr" : "=r"(control));
    asm volatile("msr fpcr, %0" ::"r"(control | 1 << 24));
#endif
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  size_t idle_ = 0;
};

}  // namespace torus
