// Characters, lines and sentences of a text. The twin in Python is
// fugaku_jax/corpora/text_statistics.py, which says what is counted.

#include "text.h"

namespace {

bool is_space(uint32_t c) {  // as str.isspace of Python's has it
  if (c < 128) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool ends_sentence(uint32_t c) {
  return c == 0x3002 || c == 0xff0e || c == 0xff01 || c == 0xff1f || c == '!' || c == '?';
}

// Lines, or sentences: how many, how long, and which are the same as an earlier one, by 64-bit hashes.
class Parts {
 public:
  void begin() { count = characters = longest = 0, hashes.clear(), lengths.clear(), open(); }
  void open() { hash_ = 0, length_ = 0; }
  void add(uint32_t c) { hash_ = (hash_ ^ c) * 0x9e3779b97f4a7c15ULL, hash_ ^= hash_ >> 32, ++length_; }
  bool close() {  // whether there was one
    if (length_ == 0) return false;
    ++count, characters += length_, longest = std::max(longest, length_);
    hashes.push_back(hash_ ^ uint64_t(length_) << 40), lengths.push_back(length_);
    open();
    return true;
  }
  void repeated(corpora::Counts& counts, int64_t* parts, int64_t* in_characters) const {
    counts.reset(hashes.size());
    *parts = *in_characters = 0;
    for (uint32_t i = 0; i < hashes.size(); ++i) {
      const uint32_t slot = counts.add(hashes[i], corpora::mix(hashes[i]), i);
      if (!counts.is_first(slot, i)) ++*parts, *in_characters += lengths[i];
    }
  }
  int64_t count = 0, characters = 0, longest = 0;
  std::vector<uint64_t> hashes;
  std::vector<int64_t> lengths;

 private:
  uint64_t hash_ = 0;
  int64_t length_ = 0;
};

}  // namespace

// text[n]; found[14]: the fields of TextStatistics in their order.
extern "C" void fugaku_statistics(const uint32_t* text, int64_t n, int64_t* found) {
  static thread_local corpora::Counts counts;
  static thread_local Parts lines, sentences;
  lines.begin(), sentences.begin();
  int64_t hiragana = 0, katakana = 0, kanji = 0, marks = 0, ellipses = 0;
  uint32_t last = 0;  // of a sentence that is no space
  const auto close_sentence = [&] {
    if (sentences.close()) ellipses += last == 0x30fb || last == 0x2026;
    last = 0;
  };
  bool open = false;  // whether a sentence has begun
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t c = text[i];
    if (c == '\n') {
      lines.close(), close_sentence();
      open = false;
      continue;
    }
    hiragana += c >= 0x3041 && c <= 0x3096;
    katakana += c >= 0x30a1 && c <= 0x30fa;
    kanji += c == 0x3005 || c == 0x3007 || c == 0x303b || (c >= 0x3400 && c <= 0x9fff) ||
             (c >= 0xf900 && c <= 0xfaff) || (c >= 0x20000 && c <= 0x2fa1f);
    const bool end = ends_sentence(c);
    marks += c == 0x3001 || c == 0xff0c || (end && c > 0x7f);
    lines.add(c);
    if (end && !open) continue;
    sentences.add(c);
    if (!is_space(c)) last = c;
    open = !end;
    if (end) close_sentence();
  }
  lines.close(), close_sentence();
  const int64_t all[] = {hiragana,        katakana, kanji, marks, lines.count, lines.characters};
  std::copy(std::begin(all), std::end(all), found);
  lines.repeated(counts, found + 6, found + 7);
  found[8] = sentences.count, found[9] = sentences.characters, found[10] = sentences.longest;
  sentences.repeated(counts, found + 11, found + 12);
  found[13] = ellipses;
}
