// Collectives that are started, go on while others compute, and are done with later.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace torus {

// When what happened to a started collective, in seconds of the steady clock.
struct Moments {
  double started = 0, ended = 0;  // its messages
  double asked = 0, given = 0;    // its result
  double bytes = 0;               // of its source
};

// What is under way. Its arrays lie here and not in XLA's memory, which XLA may copy and use again
// as soon as the call that started this has returned.
class Started {
 public:
  Started(int64_t source_bytes, int64_t target_bytes)
      : source_(new std::byte[size_t(source_bytes)]),
        // Each chunk of an all-reduce is taken as a whole before it is given back.
        target_(target_bytes ? new std::byte[size_t(target_bytes)] : nullptr) {
    moments.started = now();
    moments.bytes = double(source_bytes);
  }

  std::byte* source() const { return source_.get(); }
  std::byte* target() const { return target_ ? target_.get() : source_.get(); }

  // It has ended, or failed: whoever waits is told.
  void end(const std::string* failure) {
    std::function<void(const std::string&)> waiting;
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
      moments.ended = now();
      if (failure) failure_ = *failure;
      waiting = std::move(waiting_);
    }
    if (waiting) waiting(failure_);
  }

  // Tells what went wrong, or nothing, when it has ended: now, or in the thread that ends it.
  void when_ended(std::function<void(const std::string& failure)> tell) {
    {
      const std::lock_guard lock(mutex_);
      moments.asked = now();
      if (!ended_) {
        waiting_ = std::move(tell);
        return;
      }
    }
    tell(failure_);
  }

  static double now();

  Moments moments;

 private:
  const std::unique_ptr<std::byte[]> source_, target_;
  std::mutex mutex_;
  bool ended_ = false;
  std::string failure_;
  std::function<void(const std::string&)> waiting_;
};

// Copies rows that lie one after the other in several arrays into the rows of one, or back.
//
// An array is a matrix of `rows`, and the rows of the whole are theirs side by side.
template <class Array>
void pack(const std::vector<Array>& arrays, int64_t rows, std::byte* whole, bool back) {
  int64_t width = 0;
  for (const auto& [data, bytes] : arrays) width += bytes / rows;
  int64_t place = 0;
  for (const auto& [data, bytes] : arrays) {
    const int64_t size = bytes / rows;
    for (int64_t row = 0; row < rows; ++row) {
      std::byte* inside = whole + row * width + place;
      std::byte* own = const_cast<std::byte*>(data) + row * size;
      std::memcpy(back ? own : inside, back ? inside : own, size_t(size));
    }
    place += size;
  }
}

}  // namespace torus
