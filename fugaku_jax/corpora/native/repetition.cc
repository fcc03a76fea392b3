// Repeated n-grams of characters. The twin in Python is fugaku_jax/corpora/repetition.py.
//
// An n-gram can only occur twice if both (n-1)-grams in it do. So the pass for n looks at those
// places alone whose neighbours were repeated in the pass before, and names an n-gram by the slots of
// the two: exact, and few are left after n = 6 in natural text.

#include <algorithm>

#include "text.h"

namespace {
constexpr uint32_t kUnique = 0xffffffffu;
}

// text[n]; top[k]: occurrences of the most frequent (k + 2)-gram, 0 if there is none;
// different[k], repeated[k]: how many different (k + 2)-grams there are, and occur more than once;
// for k in [0, longest - 2].
extern "C" void fugaku_ngrams(const uint32_t* text, int64_t n, int64_t longest, int64_t* top,
                              int64_t* different, int64_t* repeated) {
  static thread_local corpora::Counts counts;
  static thread_local std::vector<uint32_t> names;   // of the (k+1)-gram at a place, or kUnique
  static thread_local std::vector<uint32_t> places;  // where the (k+2)-gram may be repeated
  names.assign(text, text + n);
  places.clear();
  for (int64_t i = 0; i + 1 < n; ++i) places.push_back(static_cast<uint32_t>(i));
  for (int64_t size = 2; size <= longest; ++size) {
    const int64_t k = size - 2, total = std::max<int64_t>(n - size + 1, 0);
    counts.reset(places.size());
    static thread_local std::vector<uint32_t> slots;
    slots.resize(places.size());
    for (size_t j = 0; j < places.size(); ++j) {
      const uint32_t i = places[j];
      slots[j] = counts.add(uint64_t(names[i]) << 32 | names[i + 1], i);
    }
    int64_t most = total > 0 ? 1 : 0, occurrences = 0, kinds = 0;
    std::fill(names.begin(), names.end(), kUnique);
    for (size_t j = 0; j < places.size(); ++j) {
      const uint32_t count = counts.count(slots[j]);
      if (count < 2) continue;
      names[places[j]] = slots[j];
      ++occurrences;
      most = std::max<int64_t>(most, count);
      kinds += counts.is_first(slots[j], places[j]);
    }
    top[k] = most;
    repeated[k] = kinds;
    different[k] = total - occurrences + kinds;
    places.clear();
    for (int64_t i = 0; i + size < n; ++i)
      if (names[i] != kUnique && names[i + 1] != kUnique) places.push_back(static_cast<uint32_t>(i));
  }
}
