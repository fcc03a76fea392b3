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
#include "vector.h"

namespace matmul {

using packing::Matrix;
using vector::Float;
using vector::LANES;

constexpr int64_t ROWS = isa::TILE_ROWS;
constexpr int64_t VECTORS = isa::TILE_VECTORS;
constexpr int64_t PANEL = VECTORS * LANES;
constexpr int64_t MAX_DEPTH = 512;            // of K, for a tile's rows of A to stay in L1
constexpr int64_t ROWS_OF_GROUP = 8 * ROWS;    // of A, packed together: whole lines of the cache
constexpr int64_t ROWS_OF_TASK = 8 * ROWS_OF_GROUP;  // enough for B's packing not to count

// sums[i][j] = sum over k of a(i, k) b(k, j), for a tile that stays in registers.
//
// `a` has rows `stride` apart, or if COLUMNS is column after column; `b` is a packed panel.
template <bool COLUMNS>
[[gnu::always_inline]] inline void multiply_tile(const float* a, int64_t stride, const float* b,
                                                 int64_t depth,
                                                 Float (&sums)[ROWS][VECTORS]) {
  Float total[ROWS][VECTORS];
  // Unrolled, as everything that touches the sums must be for them to stay in registers.
#pragma GCC unroll 32
  for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int64_t j = 0; j < VECTORS; ++j) total[i][j] = Float{};
  for (int64_t k = 0; k < depth; ++k) {
    Float right[VECTORS];
#pragma GCC unroll 4
    for (int64_t j = 0; j < VECTORS; ++j) right[j] = vector::load(b + (k * VECTORS + j) * LANES);
#pragma GCC unroll 32
    for (int64_t i = 0; i < ROWS; ++i) {
      const Float left = vector::splat(COLUMNS ? a[k * ROWS + i] : a[i * stride + k]);
#pragma GCC unroll 4
      for (int64_t j = 0; j < VECTORS; ++j) total[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 32
  for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int64_t j = 0; j < VECTORS; ++j) sums[i][j] = total[i][j];
}

// The product of one batch element, and the tasks that it is cut into.
template <class A, class B, class Out>
class Product {
 public:
  Product(Matrix<A> a, Matrix<B> b, Out* c, int64_t rows, int64_t columns, int64_t depth,
          bool accumulate)
      : a_(a), b_(b), c_(c), rows_(rows), columns_(columns), depth_(depth), accumulate_(accumulate) {
    const int64_t cuts = std::max<int64_t>(1, (depth + MAX_DEPTH - 1) / MAX_DEPTH);
    block_depth_ = (depth + cuts - 1) / cuts;
    const int64_t fitting = isa::CACHE_BYTES / (4 * std::max<int64_t>(block_depth_, 1));
    block_columns_ = std::max<int64_t>(1, fitting / PANEL) * PANEL;
    row_blocks_ = (rows + ROWS_OF_TASK - 1) / ROWS_OF_TASK;
    column_blocks_ = (columns + block_columns_ - 1) / block_columns_;
  }

  int64_t tasks() const { return row_blocks_ * column_blocks_; }

  void run(int64_t task) const {
    const int64_t row = task % row_blocks_ * ROWS_OF_TASK;
    const int64_t column = task / row_blocks_ * block_columns_;
    const int64_t rows = std::min(ROWS_OF_TASK, rows_ - row);
    const int64_t columns = std::min(block_columns_, columns_ - column);
    const int64_t panels = (columns + PANEL - 1) / PANEL;
    float* packed_b = scratch<struct PackedB, float>(panels * PANEL * block_depth_);
    float* packed_a = scratch<struct PackedA, float>(ROWS_OF_GROUP * block_depth_);
    float* partial = nullptr;
    if (!in_place && block_depth_ < depth_)
      partial = scratch<struct Partial, float>((rows + ROWS) * panels * PANEL);
    int64_t k = 0;
    do {
      const int64_t depth = std::min(block_depth_, depth_ - k);
      for (int64_t p = 0; p < panels; ++p)
        packing::pack_panel<PANEL>(b_, k, depth, column + p * PANEL,
                                   std::min(PANEL, columns - p * PANEL),
                                   packed_b + p * PANEL * depth);
      for (int64_t group = 0; group < rows; group += ROWS_OF_GROUP) {
        const int64_t height = std::min(ROWS_OF_GROUP, rows - group);
        if (!lies_ready(height))
          packing::pack_tiles<ROWS>(a_, row + group, height, k, depth, packed_a);
        for (int64_t i = 0; i < height; i += ROWS)
          for (int64_t p = 0; p < panels; ++p) {
            Float sums[ROWS][VECTORS];
            const float* panel = packed_b + p * PANEL * depth;
            if (a_.transposed)
              multiply_tile<true>(packed_a + i * depth, 0, panel, depth, sums);
            else if (lies_ready(height))
              multiply_tile<false>(rows_of_a(row + group + i, k), a_.stride, panel, depth, sums);
            else
              multiply_tile<false>(packed_a + i * depth, depth, panel, depth, sums);
            const Place place{row + group + i, column + p * PANEL, std::min(ROWS, height - i),
                              std::min(PANEL, columns - p * PANEL),
                              partial ? partial + ((group + i) * panels + p * ROWS) * PANEL
                                      : nullptr};
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

  // Whether a group of rows of A can be read where it lies.
  bool lies_ready(int64_t height) const {
    return std::is_same_v<A, float> && !a_.transposed && height % ROWS == 0;
  }

  const float* rows_of_a(int64_t row, int64_t k) const {
    return reinterpret_cast<const float*>(a_.at(row, k));
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
        vector::store_some(x, c, some);
      }
  }

  Matrix<A> a_;
  Matrix<B> b_;
  Out* c_;
  int64_t rows_, columns_, depth_;
  bool accumulate_;  // C is added to
  int64_t block_depth_, block_columns_, row_blocks_, column_blocks_;
};

}  // namespace matmul
