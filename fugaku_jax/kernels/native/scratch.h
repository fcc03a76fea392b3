// Memory that a thread keeps from call to call, so that no call gives pages back to the system.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

// Returns room for `count` values, aligned to a page; what was in it before is lost.
//
// Each `Purpose` (any type) has its own, so that uses nest. It grows and never shrinks.
template <class Purpose, class T>
T* scratch(int64_t count) {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local size_t size = 0;
  constexpr size_t PAGE = 4096;
  const size_t wanted = (count * sizeof(T) + PAGE - 1) / PAGE * PAGE;
  if (wanted > size) {
    memory.reset();
    memory.reset(std::aligned_alloc(PAGE, wanted));
    size = memory ? wanted : 0;
    if (!memory) throw std::bad_alloc();
  }
  return static_cast<T*>(memory.get());
}
