// Tiles (Intel AMX): eight registers of up to 16 rows of 64 bytes, and their products.
//
// A product adds left · right to sums. `left` has a row of 64 bytes for each row of the sums (32 bf16
// or 64 int8, along which the sum runs); `right` one for every 2 bf16 or 4 int8 that follow each
// other in the sum: those of a column lie together, 16 columns in a row; the sums are 16 rows of 16
// fp32 or int32. Numbers of bf16 below the normal ones count as 0, as AVX512-BF16 has it.
//
// Linux lets a process use them that has asked (`may_use_tiles` in processor.py).
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
#pragma once

#include <cstdint>
#include <cstring>

namespace amx {

constexpr int64_t ROWS = 16;
constexpr int64_t BYTES = 64;  // of a row

// Whether to multiply by them. (Tests define it, to run what does so.)
#if defined(__AMX_TILE__) || defined(FUGAKU_JAX_TILES)
constexpr bool TILES = true;
#else
constexpr bool TILES = false;
#endif

// How much of a tile is used.
struct Shape {
  uint8_t rows = ROWS;
  uint16_t bytes = BYTES;
};

#ifdef __AMX_TILE__

// While it lives this thread's tiles have shapes, and may be used; by default whole ones. (A thread
// that leaves them in use would be slow to switch; what another library sets would not be ours.)
class Session {
 public:
  Session() : Session({{}, {}, {}, {}, {}, {}, {}, {}}) {}
  explicit Session(const Shape (&shapes)[8]) {
    alignas(64) uint8_t configuration[64]{1};  // palette 1
    for (int i = 0; i < 8; ++i) {
      std::memcpy(configuration + 16 + 2 * i, &shapes[i].bytes, 2);
      configuration[48 + i] = shapes[i].rows;
    }
    asm volatile("ldtilecfg %0" : : "m"(configuration));
  }
  ~Session() { asm volatile("tilerelease"); }
  Session(const Session&) = delete;
};

template <int TILE>
[[gnu::always_inline]] inline void clear() {
  asm volatile("tilezero %%tmm%c0" : : "i"(TILE));
}

// Rows lie `stride` bytes apart.
template <int TILE>
[[gnu::always_inline]] inline void load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(TILE) : "memory");
}

template <int TILE>
[[gnu::always_inline]] inline void store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(TILE) : "memory");
}

// Adds a product of bf16 to sums of fp32.
template <int SUMS, int LEFT, int RIGHT>
[[gnu::always_inline]] inline void add_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(LEFT), "i"(RIGHT));
}

// Adds a product of int8 to sums of int32, both signed.
template <int SUMS, int LEFT, int RIGHT>
[[gnu::always_inline]] inline void add_int8() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(LEFT), "i"(RIGHT));
}

#else  // The same in software, which tests run on any processor.

struct Tile {
  Shape shape;
  alignas(64) uint8_t bytes[ROWS][BYTES];

  template <class T>
  T& at(int64_t row, int64_t column) { return reinterpret_cast<T*>(bytes[row])[column]; }
};

inline thread_local Tile tiles[8];

class Session {
 public:
  Session() : Session({{}, {}, {}, {}, {}, {}, {}, {}}) {}
  explicit Session(const Shape (&shapes)[8]) {
    for (int i = 0; i < 8; ++i) tiles[i] = {shapes[i], {}};
  }
  ~Session() {
    for (Tile& tile : tiles) tile.shape = {0, 0};
  }
  Session(const Session&) = delete;
};

template <int TILE>
void clear() { std::memset(tiles[TILE].bytes, 0, sizeof tiles[TILE].bytes); }

template <int TILE>
void load(const void* from, int64_t stride) {
  clear<TILE>();
  for (int64_t i = 0; i < tiles[TILE].shape.rows; ++i)
    std::memcpy(tiles[TILE].bytes[i], static_cast<const char*>(from) + i * stride,
                tiles[TILE].shape.bytes);
}

template <int TILE>
void store(void* to, int64_t stride) {
  for (int64_t i = 0; i < tiles[TILE].shape.rows; ++i)
    std::memcpy(static_cast<char*>(to) + i * stride, tiles[TILE].bytes[i],
                tiles[TILE].shape.bytes);
}

// Adds left · right, `Depth` numbers of four bytes at a time.
template <class Sum, class Number, class Widen>
void add_product(Tile& sums, Tile& left, Tile& right, const Widen& widen) {
  constexpr int64_t DEPTH = 4 / sizeof(Number);
  for (int64_t i = 0; i < sums.shape.rows; ++i)
    for (int64_t s = 0; s < left.shape.bytes / 4; ++s)
      for (int64_t j = 0; j < sums.shape.bytes / 4; ++j)
        for (int64_t k = 0; k < DEPTH; ++k)
          sums.at<Sum>(i, j) += widen(left.at<Number>(i, s * DEPTH + k)) *
                                widen(right.at<Number>(s, j * DEPTH + k));
}

template <int SUMS, int LEFT, int RIGHT>
void add_bf16() {
  add_product<float, uint16_t>(tiles[SUMS], tiles[LEFT], tiles[RIGHT], [](uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  });
}

template <int SUMS, int LEFT, int RIGHT>
void add_int8() {
  add_product<int32_t, int8_t>(tiles[SUMS], tiles[LEFT], tiles[RIGHT],
                               [](int8_t x) { return int32_t(x); });
}

#endif

}  // namespace amx
