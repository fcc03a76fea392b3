// Threads of XLA's pool that wait a moment for the next job instead of going to sleep.
//
// Generation multiplies by one small matrix after the other, some in less than 100 microseconds.
// Until a sleeping thread is awake, its caller works alone.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

namespace pool {

using Task = std::function<void()>;

// Lets other threads of this core work meanwhile.
inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Waiting {
 public:
  // Hands a task to a thread that waits; returns whether there was one. It runs at once, unless the
  // operating system has taken the thread's core away.
  static bool hand(const Task& task) {
    const int64_t used = std::min<int64_t>(threads_.load(), MOST);
    std::unique_ptr<Task> given;
    for (int64_t i = 0; i < used; ++i) {
      Task* expected = &nothing_;
      if (places_[i].task.load(std::memory_order_relaxed) != expected) continue;
      if (!given) given = std::make_unique<Task>(task);
      if (!places_[i].task.compare_exchange_strong(expected, given.get())) continue;
      given.release();
      return true;
    }
    return false;
  }

  // Runs what this thread is handed, until nothing has come for a while.
  static void wait() {
    thread_local const int64_t number = threads_.fetch_add(1);
    if (number >= MOST) return;
    std::atomic<Task*>& place = places_[number].task;
    while (true) {
      place.store(&nothing_);
      const auto end = Clock::now() + WHILE;
      do
        for (int i = 0; i < 8 && place.load() == &nothing_; ++i) pause();
      while (place.load() == &nothing_ && Clock::now() < end);
      Task* const given = place.exchange(nullptr);
      if (given == &nothing_) return;
      (*std::unique_ptr<Task>(given))();
    }
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds WHILE{100};
  static constexpr int64_t MOST = 256, LINE = 256;  // a cache line of A64FX

  struct alignas(LINE) Place {
    std::atomic<Task*> task;  // null where no thread waits
  };

  static inline Task nothing_;  // stands in the place of a thread that waits
  static inline std::array<Place, MOST> places_;
  static inline std::atomic<int64_t> threads_{0};
};

}  // namespace pool
