// Products of matrices, blocked for the caches (Goto and van de Geijn, "Anatomy of High-Performance
// Matrix Multiplication", 2008; here a thread packs a block of B when it comes to it, and A is read
// where it lies if it can be).
//
// A task is a block of rows of A by a block of columns of B. How a sum is cut depends on K alone,
// so a result depends neither on the number of threads nor on which of them computed it.
#pragma once

#include <algorithm>

#include "packing.h"
#include "pool.h"
#include "scratch.h"

namespace matmul {

using packing::Matrix;
using vector::Float;
using vector::LANES;

inline int64_t divide_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit; }

constexpr int64_t ROWS = isa::TILE_ROWS;
constexpr int64_t MAX_STEPS = 448;           // of the sum, for a tile's rows of A to stay in L1
constexpr int64_t ROWS_OF_GROUP = 8 * ROWS;  // of A, packed together: whole lines of the cache
constexpr int64_t MOST_ROWS = 32 * ROWS_OF_GROUP;  // of a task
constexpr int64_t LEAST_ROWS = 2 * ROWS_OF_GROUP;  // for the packing of B to be worth it

// The product of one batch element, and the tasks that it is cut into.
template <class A, class B, class Out>
class Product {
  using Kind = tile::KindOf<A>;
  using Number = typename Kind::Number;
  static constexpr int64_t PANEL = isa::TILE_VECTORS * tile::NUMBERS<Kind>;  // columns of a tile
  static constexpr int64_t VECTORS = PANEL / LANES;                          // of its sums

 public:
  Product(Matrix<A> a, Matrix<B> b, Out* c, int64_t rows, int64_t columns, int64_t depth,
          bool accumulate, const float* bias, int64_t threads)
      : a_(a), b_(b), c_(c), rows_(rows), columns_(columns), depth_(depth), accumulate_(accumulate),
        bias_(bias) {
    const int64_t steps = divide_up(depth, Kind::DEPTH);
    const int64_t block_steps = divide_up(steps, std::max<int64_t>(1, divide_up(steps, MAX_STEPS)));
    block_depth_ = block_steps * Kind::DEPTH;
    const int64_t fitting =
        isa::CACHE_BYTES / (sizeof(Number) * PANEL * std::max<int64_t>(block_steps, 1));
    const int64_t panels = divide_up(columns, PANEL);
    const int64_t fewest = std::max<int64_t>(1, divide_up(panels, std::max<int64_t>(1, fitting)));
    block_columns_ = std::max<int64_t>(1, divide_up(panels, fewest)) * PANEL;
    column_blocks_ = divide_up(columns, block_columns_);
    // As many tasks for each thread, and two at least, if that leaves them rows enough.
    for (int64_t cuts = std::max<int64_t>(1, divide_up(rows, MOST_ROWS));; ++cuts) {
      const int64_t even = divide_up(divide_up(rows, cuts), ROWS_OF_GROUP) * ROWS_OF_GROUP;
      block_rows_ = std::max(LEAST_ROWS, even);
      row_blocks_ = divide_up(rows, block_rows_);
      if (block_rows_ == LEAST_ROWS || (tasks() >= 2 * threads && tasks() % threads == 0)) break;
    }
  }

  int64_t tasks() const { return row_blocks_ * column_blocks_; }

  void run(int64_t task) const {
    const int64_t row = task % row_blocks_ * block_rows_;
    const int64_t column = task / row_blocks_ * block_columns_;
    const int64_t rows = std::min(block_rows_, rows_ - row);
    const int64_t columns = std::min(block_columns_, columns_ - column);
    const int64_t panels = divide_up(columns, PANEL), block_steps = block_depth_ / Kind::DEPTH;
    Number* packed_b = scratch<struct PackedB, Number>(panels * PANEL * block_steps);
    Number* packed_a = scratch<struct PackedA, Number>(ROWS_OF_GROUP * block_steps);
    float* partial = nullptr;
    if (!in_place && block_depth_ < depth_)
      partial = scratch<struct Partial, float>((rows + ROWS) * panels * PANEL);
    int64_t k = 0;
    do {
      const int64_t depth = std::min(block_depth_, depth_ - k);
      const int64_t steps = divide_up(depth, Kind::DEPTH);
      for (int64_t p = 0; p < panels; ++p)
        packing::pack_panel<Kind, PANEL>(b_, k, depth, column + p * PANEL,
                                         std::min(PANEL, columns - p * PANEL),
                                         packed_b + p * PANEL * steps);
      for (int64_t group = 0; group < rows; group += ROWS_OF_GROUP) {
        const int64_t height = std::min(ROWS_OF_GROUP, rows - group);
        if (!lies_ready(height))
          packing::pack_tiles<Kind, ROWS>(a_, row + group, height, k, depth, packed_a);
        for (int64_t i = 0; i < height; i += ROWS)
          for (int64_t p = 0; p < panels; ++p) {
            const Place place{row + group + i, column + p * PANEL, std::min(ROWS, height - i),
                              std::min(PANEL, columns - p * PANEL),
                              partial ? partial + ((group + i) * panels + p * ROWS) * PANEL
                                      : nullptr};
            fetch(place);
            Float sums[ROWS][VECTORS];
            const Number* panel = packed_b + p * PANEL * steps;
            if (a_.transposed)
              tile::multiply_wide<Kind, true>(packed_a + i * steps, ROWS, panel, PANEL, steps,
                                              sums);
            else if (lies_ready(height))
              tile::multiply_wide<Kind, false>(
                  reinterpret_cast<const Number*>(a_.at(row + group + i, k)),
                  a_.stride / Kind::DEPTH, panel, PANEL, steps, sums);
            else
              tile::multiply_wide<Kind, false>(packed_a + i * steps, steps, panel, PANEL, steps,
                                               sums);
            finish(sums, place, k == 0, k + depth == depth_);
          }
      }
      k += depth;
    } while (k < depth_);
  }

 private:
  // Where a tile belongs in C, how much of it is there, and where its sums wait if not in C.
  struct Place {
    int64_t row, column, height, width;
    float* partial;
  };

  // Sums over some of K wait in C itself if it can hold them.
  static constexpr bool in_place = std::is_same_v<Out, float>;

  // Whether a group of rows of A can be read where it lies: as floats, or as whole pairs.
  bool lies_ready(int64_t height) const {
    return sizeof(A) * Kind::DEPTH == sizeof(Number) && !a_.transposed && height % ROWS == 0 &&
           a_.stride % Kind::DEPTH == 0 && depth_ % Kind::DEPTH == 0;
  }

  // Asks for the part of C that a tile will be added to, while the tile is computed.
  void fetch(const Place& place) const {
    constexpr int64_t LINE = 64 / sizeof(Out);
    for (int64_t i = 0; i < place.height; ++i)
      for (int64_t j = 0; j < place.width; j += LINE)
        __builtin_prefetch(c_ + (place.row + i) * columns_ + place.column + j, 1);
  }

  void finish(const Float (&sums)[ROWS][VECTORS], const Place& place, bool first,
              bool last) const {
    for (int64_t i = 0; i < place.height; ++i)
      for (int64_t j = 0; j * LANES < place.width; ++j) {
        const int64_t column = place.column + j * LANES;
        const int64_t some = std::min(LANES, place.width - j * LANES);
        Out* c = c_ + (place.row + i) * columns_ + column;
        Float x = sums[i][j];
        if constexpr (in_place) {
          if (!first || accumulate_) x += vector::load_some(c, some);
        } else {
          if (first && accumulate_) x += vector::load_some(c, some);
          if (!first) x += vector::load(place.partial + (i * VECTORS + j) * LANES);
          if (!last) {
            vector::store(x, place.partial + (i * VECTORS + j) * LANES);
            continue;
          }
        }
        if (bias_ && last) x += vector::load_some(bias_ + column, some);
        vector::store_some(x, c, some);
      }
  }

  Matrix<A> a_;
  Matrix<B> b_;
  Out* c_;
  int64_t rows_, columns_, depth_;
  bool accumulate_;    // C is added to
  const float* bias_;  // of each column, or null
  int64_t block_depth_, block_rows_, block_columns_, row_blocks_, column_blocks_;
};

}  // namespace matmul
