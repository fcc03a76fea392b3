// Repeated n-grams of characters. The twin in Python is fugaku_jax/corpora/repetition.py.
//
// An n-gram can only occur twice if both (n-1)-grams in it do. So the pass for n looks at those
// places alone whose neighbours were repeated in the pass before, and names an n-gram by the slots of
// the two: exact, and few are left after n = 6 in natural text.

#include "text.h"

namespace {
constexpr uint32_t kUnique = 0xffffffffu;
constexpr size_t kAhead = 12;  // slots that are on their way from memory
}  // namespace

// text[n]; top[k]: occurrences of the most frequent (k + 2)-gram, 0 if there is none;
// different[k], repeated[k]: how many different (k + 2)-grams there are, and occur more than once;
// for k in [0, longest - 2].
extern "C" void fugaku_ngrams(const uint32_t* text, int64_t n, int64_t longest, int64_t* top,
                              int64_t* different, int64_t* repeated) {
  static thread_local corpora::Counts counts;
  static thread_local std::vector<uint32_t> names;   // of the (k+1)-gram at a place, or kUnique
  static thread_local std::vector<uint32_t> places;  // where the (k+2)-gram may be repeated
  static thread_local std::vector<uint32_t> slots;
  names.assign(text, text + n);
  places.clear();
  for (int64_t i = 0; i + 1 < n; ++i) places.push_back(static_cast<uint32_t>(i));
  for (int64_t size = 2; size <= longest; ++size) {
    const size_t looked_at = places.size();
    counts.reset(looked_at);
    slots.resize(looked_at);
    uint64_t keys[kAhead], hashes[kAhead];
    for (size_t j = 0; j < looked_at + kAhead; ++j) {
      const size_t ring = j % kAhead;
      if (j >= kAhead) slots[j - kAhead] = counts.add(keys[ring], hashes[ring], places[j - kAhead]);
      if (j >= looked_at) continue;
      keys[ring] = uint64_t(names[places[j]]) << 32 | names[places[j] + 1];
      hashes[ring] = corpora::mix(keys[ring]);
      counts.prefetch(hashes[ring]);
    }
    const int64_t total = std::max<int64_t>(n - size + 1, 0);
    int64_t most = total > 0 ? 1 : 0, occurrences = 0, kinds = 0;
    std::fill(names.begin(), names.end(), kUnique);
    for (size_t j = 0; j < looked_at; ++j) {
      const uint32_t count = counts.count(slots[j]);
      if (count < 2) continue;
      names[places[j]] = slots[j];
      ++occurrences;
      most = std::max<int64_t>(most, count);
      kinds += counts.is_first(slots[j], places[j]);
    }
    top[size - 2] = most;
    repeated[size - 2] = kinds;
    different[size - 2] = total - occurrences + kinds;
    size_t left = 0;
    for (size_t j = 0; j < looked_at; ++j) {
      const uint32_t i = places[j];
      if (int64_t(i) + size < n && names[i] != kUnique && names[i + 1] != kUnique) places[left++] = i;
    }
    places.resize(left);
  }
}
