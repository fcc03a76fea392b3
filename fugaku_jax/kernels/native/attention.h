// What forward and backward pass of attention share: where the operands lie, who sees whom, and the
// products of a block.
//
// A block is QUERIES queries by at most KEYS keys. Its scores lie transposed, `[key][query]`: then
// a register holds one key's scores for LANES queries, maximum and sum of the softmax need no sum
// over lanes, and the scores are in the right order to be the left operand of every product that
// follows. Only in one place is anything transposed: q and d_out, once for all keys.
//
// Operands lie as a kind of numbers (tile.h): floats, or pairs of bf16 that follow each other in
// the sum. So a pair holds two places of head_dim, two keys or two queries of a block.
#pragma once

#include <algorithm>
#include <limits>

#include "elementary.h"
#include "scratch.h"
#include "threefry.h"
#include "tile.h"

namespace attention {

using vector::Bits;
using vector::exp2;
using vector::Float;
using vector::Int;
using vector::LANES;
using vector::LOG2_E;
using vector::load;
using vector::splat;
using vector::store;

constexpr int64_t QUERIES = 48;  // whole tiles and whole registers on every instruction set
constexpr int64_t KEYS = 96;
constexpr int64_t UNIT = 24;  // keys are filled up to a multiple of it: any tile's rows divide it

inline int64_t divide_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit; }
inline int64_t round_up(int64_t x, int64_t unit) { return divide_up(x, unit) * unit; }

struct Shape {
  int64_t batch, length, heads, groups, head_dim;  // `groups` is the number of heads of k and v

  int64_t width() const { return round_up(head_dim, LANES); }  // of a row, filled up with zeros
  float scale() const { return 1 / std::sqrt(float(head_dim)); }  // of the scores
  float unit() const { return scale() * LOG2_E; }  // of a score not yet scaled, to base 2

  // Numbers along head_dim, and as many as a row of them takes.
  template <class Kind>
  int64_t steps() const { return divide_up(head_dim, Kind::DEPTH); }
  template <class Kind>
  int64_t row_size() const { return round_up(steps<Kind>(), LANES); }
};

// One head of one batch row, where it lies: positions × head_dim.
template <class T>
struct Head {
  T* data;
  int64_t stride;  // from a position to the next

  T* at(int64_t position) const { return data + position * stride; }
};

// An array [batch, length, heads, head_dim], or one of three of them that lie as
// [batch, length, 3, heads, head_dim].
template <class T>
struct Heads {
  T* data;
  int64_t stride, length, head_dim;

  Head<T> head(int64_t row, int64_t number) const {
    return {data + row * length * stride + number * head_dim, stride};
  }
};

// Parts of one piece of memory, one after the other; each begins at a register's boundary.
class Room {
 public:
  explicit Room(float* memory) : next_(memory) {}

  template <class T = float>
  T* take(int64_t count) {
    static_assert(sizeof(T) == sizeof(float));
    return reinterpret_cast<T*>(std::exchange(next_, next_ + round_up(count, LANES)));
  }

 private:
  float* next_;
};

// Numbers first, first + 1, ... of the lanes.
[[gnu::always_inline]] inline Int count_from(int64_t first) {
  Int x;
#pragma GCC unroll 16
  for (int64_t lane = 0; lane < LANES; ++lane) x[lane] = int32_t(lane);
  return x + int32_t(first);
}

// Who sees whom within a block: a query sees keys up to its own position and of its own segment.
class Sight {
 public:
  // `segments` are those of the batch row's positions, or null if there are none.
  Sight(const int32_t* segments, int64_t length, int64_t first_query, int64_t first_key,
        int64_t keys)
      : first_query_(first_query), first_key_(first_key), segmented_(segments) {
    if (!segmented_) return;
    const int64_t last = length - 1;  // what is filled up may see anything: it comes to nothing
    for (int64_t i = 0; i < QUERIES; ++i) query_[i] = segments[std::min(first_query + i, last)];
    for (int64_t i = 0; i < keys; ++i) key_[i] = segments[std::min(first_key + i, last)];
    const auto [q_least, q_most] = std::minmax_element(query_, query_ + QUERIES);
    const auto [k_least, k_most] = std::minmax_element(key_, key_ + keys);
    apart_ = *q_most < *k_least || *k_most < *q_least;
    segmented_ = *q_least != *q_most || *k_least != *k_most || apart_;
  }

  // Whether no query can see any key. (It may be false where none does.)
  bool nothing() const { return apart_; }

  // Whether every query sees the block's keys below `end`.
  bool all(int64_t end) const { return !segmented_ && first_key_ + end <= first_query_ + 1; }

  // `x`, the scores of a key for the queries from `query` on; `otherwise` where it is not seen.
  [[gnu::always_inline]] Float seen(Float x, int64_t key, int64_t query, float otherwise) const {
    Int visible = count_from(first_query_ + query) >= int32_t(first_key_ + key);
    if (segmented_) {
      Int segment;
      std::memcpy(&segment, query_ + query, sizeof segment);
      visible &= segment == key_[key];
    }
    return visible ? x : splat(otherwise);
  }

 private:
  int64_t first_query_, first_key_;
  bool segmented_, apart_ = false;
  int32_t query_[QUERIES], key_[KEYS];
};

// Which weights dropout drops; `Dropout.weights` in kernels/dropout.py says which.
struct Masks {
  static constexpr int64_t LEVELS = 1 << 16;

  uint32_t key[2];
  uint32_t first_row, first_head;  // numbers, in the whole, of the first ones here
  int64_t sequence_length;
  int64_t dropped;  // of LEVELS

  float scale() const { return float(LEVELS) / float(LEVELS - dropped); }

  // Which of a head's weights are kept, of keys key .. key + 4 and LANES queries from `query` on.
  // `key` is a multiple of 4.
  [[gnu::always_inline]] void draw(int64_t row, int64_t head, int64_t query, int64_t key,
                                   Int (&kept)[4]) const {
    const uint32_t first = (first_row + uint32_t(row)) * uint32_t(sequence_length);
    const uint32_t fours = uint32_t(divide_up(sequence_length, 4));
    const uint32_t low = (first_head + uint32_t(head)) * fours + uint32_t(key) / 4;
    const Bits high = std::bit_cast<Bits>(count_from(query)) + first;
    const threefry::Words words = threefry::draw(this->key, {high, Bits{} + low});
    const Bits levels[4] = {words.first & 0xffff, words.first >> 16, words.second & 0xffff,
                            words.second >> 16};
#pragma GCC unroll 4
    for (int64_t i = 0; i < 4; ++i) kept[i] = std::bit_cast<Int>(levels[i]) >= int32_t(dropped);
  }
};

}  // namespace attention
