// What the sources of this library share. They are called from Python by ctypes, which gives up the
// interpreter's lock; texts come as UTF-32, so that an index is a character's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace corpora {

// Spreads the bits of a key (splitmix64's last steps; Steele et al. 2014).
inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// How often each of many keys occurs: open addressing, at most half full. A key's slot names it.
class Counts {
 public:
  void reset(size_t keys) {
    size_t slots = 16;
    while (slots < 2 * keys) slots *= 2;
    mask_ = slots - 1;
    if (slots_.size() < slots) slots_.resize(slots);
    std::fill_n(slots_.begin(), slots, Slot{0, 0, 0});
  }
  void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash & mask_], 1); }
  // Counts a key, whose `mix` is `hash`, that stands at a place, and returns its slot.
  uint32_t add(uint64_t key, uint64_t hash, uint32_t place) {
    size_t slot = hash & mask_;
    while (slots_[slot].count != 0 && slots_[slot].key != key) slot = (slot + 1) & mask_;
    if (slots_[slot].count++ == 0) slots_[slot].key = key, slots_[slot].first = place;
    return static_cast<uint32_t>(slot);
  }
  uint32_t count(uint32_t slot) const { return slots_[slot].count; }
  bool is_first(uint32_t slot, uint32_t place) const { return slots_[slot].first == place; }

 private:
  struct Slot {
    uint64_t key;
    uint32_t count, first;
  };
  size_t mask_ = 0;
  std::vector<Slot> slots_;
};

}  // namespace corpora
