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
    if (keys_.size() < slots) keys_.resize(slots), counts_.resize(slots), firsts_.resize(slots);
    std::fill_n(counts_.begin(), slots, 0u);
  }
  // Counts a key that stands at a place, and returns its slot.
  uint32_t add(uint64_t key, uint32_t place) {
    size_t slot = mix(key) & mask_;
    while (counts_[slot] != 0 && keys_[slot] != key) slot = (slot + 1) & mask_;
    if (counts_[slot]++ == 0) keys_[slot] = key, firsts_[slot] = place;
    return static_cast<uint32_t>(slot);
  }
  uint32_t count(uint32_t slot) const { return counts_[slot]; }
  bool is_first(uint32_t slot, uint32_t place) const { return firsts_[slot] == place; }

 private:
  size_t mask_ = 0;
  std::vector<uint64_t> keys_;
  std::vector<uint32_t> counts_, firsts_;
};

}  // namespace corpora
