// Products of matrices, blocked for the caches (Goto and van de Geijn, "Anatomy of High-Performance
// Matrix Multiplication", 2008; here a thread packs a block of B when it comes to it, and A is read
// where it lies if it can be).
//
// A task is a block of rows of A by some blocks of columns of B. How a sum is cut depends on K
// alone, so a result depends neither on the number of threads nor on which of them computed it.
#pragma once

#include <algorithm>
#include <limits>

#include "activation.h"
#include "packing.h"
#include "pool.h"
#include "scratch.h"

namespace matmul {

using packing::Matrix;
using vector::Float;
using vector::LANES;

inline int64_t divide_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit; }

constexpr int64_t MOST_SUMS = 1 << 21;  // of a task

// What else is done while the operands are read and the sums written.
template <class Out>
struct Fused {
  bool gelu_of_a = false;         // the product is of gelu(A)
  bool accumulate = false;        // C is added to
  const float* bias = nullptr;    // of each column, or null
  const Out* slope_at = nullptr;  // C is multiplied by gelu's derivative there, or null
};

// The product of the first matrices of a batch, and the tasks that it is cut into.
template <class A, class B, class Out>
class Product {
  using Kind = tile::KindOf<A>;
  using Number = typename Kind::Number;
  static constexpr bool tiles = std::is_same_v<Kind, tile::Tiles>;
  static constexpr int64_t ROWS = tile::ROWS<Kind>, PANEL = tile::PANEL<Kind>;  // at once
  static constexpr int64_t VECTORS = PANEL / LANES;                                // of its sums
  // Steps of the sum, for a tile's rows of A to stay in L1; for AMX, L2 is fast enough.
  static constexpr int64_t MAX_STEPS = tiles ? 512 : 448;
  // Rows of A that are packed together: whole lines of the cache.
  static constexpr int64_t ROWS_OF_GROUP = (tiles ? 2 : 8) * ROWS;
  static constexpr int64_t MOST_ROWS = 32 * ROWS_OF_GROUP;  // of a task; half if A is packed
  static constexpr int64_t LEAST_ROWS = 2 * ROWS_OF_GROUP;  // for the packing of B to be worth it
  // Multiplications in whose time a number is packed.
  static constexpr double PACKING = tiles ? 320 : 80;

 public:
  Product(Matrix<A> a, Matrix<B> b, Out* c, int64_t rows, int64_t columns, int64_t depth,
          const Fused<Out>& fused, int64_t threads)
      : a_(a), b_(b), c_(c), rows_(rows), columns_(columns), depth_(depth), fused_(fused) {
    const int64_t units = divide_up(depth, Kind::DEPTH * tile::UNIT<Kind>);
    const int64_t blocks = divide_up(units * tile::UNIT<Kind>, MAX_STEPS);
    block_depth_ =
        divide_up(units, std::max<int64_t>(1, blocks)) * tile::UNIT<Kind> * Kind::DEPTH;
    choose_tasks(threads);
  }

  int64_t tasks() const { return row_blocks_ * spans_; }

  // The product of other matrices of the batch, which follow each other.
  Product of(int64_t element) const {
    Product other = *this;
    other.a_.data += element * rows_ * depth_;
    other.b_.data += element * depth_ * columns_;
    other.c_ += element * rows_ * columns_;
    if (fused_.slope_at) other.fused_.slope_at += element * rows_ * columns_;
    return other;
  }

  void run(int64_t task) const {
    const int64_t row = task % row_blocks_ * block_rows_;
    const int64_t first = task / row_blocks_ * span_columns_;
    const int64_t rows = std::min(block_rows_, rows_ - row);
    const int64_t end = std::min(first + span_columns_, columns_);
    const int64_t block_steps = block_depth_ / Kind::DEPTH;
    [[maybe_unused]] const tile::Session<Kind> session;
    Number* packed_a = scratch<struct PackedA, Number>((rows + ROWS) * block_steps);
    Number* packed_b = scratch<struct PackedB, Number>(block_columns_ * block_steps);
    float* partial = nullptr;
    if (!in_place && block_depth_ < depth_)
      partial = scratch<struct Partial, float>((rows + ROWS) * span_columns_);
    int64_t k = 0;
    do {
      const int64_t depth = std::min(block_depth_, depth_ - k);
      const int64_t steps = tile::steps_of<Kind>(depth);
      for (int64_t column = first; column < end; column += block_columns_) {
        const int64_t columns = std::min(block_columns_, end - column);
        for (int64_t j = 0; j < columns; j += PANEL)
          packing::pack_panel<Kind, PANEL>(b_, k, depth, column + j, std::min(PANEL, columns - j),
                                           packed_b + j * steps);
        for (int64_t group = 0; group < rows; group += ROWS_OF_GROUP) {
          const int64_t height = std::min(ROWS_OF_GROUP, rows - group);
          if (column == first && !lies_ready(height))
            pack(row + group, height, k, depth, packed_a + group * steps);
          for (int64_t i = group; i < group + height; i += ROWS)
            for (int64_t j = 0; j < columns; j += PANEL) {
              const Place place{row + i, column + j, std::min(ROWS, rows - i),
                                std::min(PANEL, columns - j),
                                partial ? partial + i * span_columns_ + (column - first + j) * ROWS
                                        : nullptr};
              fetch(place);
              Float sums[ROWS][VECTORS];
              const Number* panel = packed_b + j * steps;
              if (lies_ready(height))
                multiply(reinterpret_cast<const Number*>(a_.at(row + i, k)),
                         a_.stride / Kind::DEPTH, tile::UNIT<Kind>, panel, steps, sums);
              else if (tiles)
                multiply(packed_a + i * steps, tile::UNIT<Kind>, ROWS * tile::UNIT<Kind>, panel,
                         steps, sums);
              else
                multiply(packed_a + i * steps, a_.transposed ? ROWS : steps, 0, panel, steps, sums);
              finish(sums, place, k == 0, k + depth == depth_);
            }
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

  // Packs a group of rows of A, or of gelu(A).
  void pack(int64_t row, int64_t height, int64_t k, int64_t depth, Number* target) const {
    const auto gelu = [](const A* values, int64_t count) {
      return activation::gelu(vector::load_some(values, count));
    };
    const auto pack_as = [&](const auto& read) {
      if constexpr (tiles)
        packing::pack_for_amx(a_, row, height, k, depth, read, target);
      else
        packing::pack_tiles<Kind, ROWS>(a_, row, height, k, depth, read, target);
    };
    fused_.gelu_of_a ? pack_as(gelu) : pack_as(packing::AsItIs{});
  }

  // Multiplies ROWS rows of A by a panel of B. The rows' numbers lie `stride` apart, or their steps'
  // if A lies transposed; for AMX see `multiply_tiles`.
  [[gnu::always_inline]] void multiply(const Number* a, int64_t stride,
                                       [[maybe_unused]] int64_t block, const Number* panel,
                                       int64_t steps, Float (&sums)[ROWS][VECTORS]) const {
    if constexpr (tiles)
      tile::multiply_tiles(a, stride, block, panel, steps, sums);
    else if (a_.transposed)
      tile::multiply_wide<Kind, true>(a, stride, panel, PANEL, steps, sums);
    else
      tile::multiply_wide<Kind, false>(a, stride, panel, PANEL, steps, sums);
  }

  // Cuts C in tasks, for the threads to end together and little to be packed twice: A is packed for
  // every span of columns, B for every block of rows. Where A lies ready, more tasks cost little,
  // and make up for a thread that is held up.
  void choose_tasks(int64_t threads) {
    const int64_t steps = std::max<int64_t>(1, block_depth_ / Kind::DEPTH);
    const int64_t panel_bytes = sizeof(Number) * PANEL * steps;
    const int64_t fitting = std::max<int64_t>(1, isa::CACHE_BYTES / panel_bytes);
    const int64_t panels = divide_up(columns_, PANEL), most_spans = divide_up(panels, fitting);
    const bool ready = lies_ready(ROWS);
    double least = std::numeric_limits<double>::infinity();
    for (int64_t cuts = divide_up(rows_, ready ? MOST_ROWS : MOST_ROWS / 2);; ++cuts) {
      const int64_t even = divide_up(divide_up(rows_, cuts), ROWS_OF_GROUP) * ROWS_OF_GROUP;
      const int64_t block_rows = std::max(LEAST_ROWS, even);
      const int64_t row_blocks = divide_up(rows_, block_rows);
      for (int64_t spans = 1; spans <= most_spans; ++spans) {
        const int64_t span_panels = divide_up(panels, spans), span_columns = span_panels * PANEL;
        const int64_t tasks = row_blocks * divide_up(panels, span_panels);
        const int64_t sums = block_rows * span_columns;
        const bool smallest = spans == most_spans && block_rows == LEAST_ROWS;
        if (!smallest && (tasks < (ready ? 2 : 1) * threads || sums > MOST_SUMS)) continue;
        const double packing = (ready ? 0 : PACKING / span_columns) + PACKING / block_rows;
        const double time = double(divide_up(tasks, threads)) * sums * (1 + packing);
        if (time >= least) continue;
        least = time;
        block_rows_ = block_rows;
        row_blocks_ = row_blocks;
        span_columns_ = span_columns;
        spans_ = divide_up(panels, span_panels);
        block_columns_ = divide_up(span_panels, divide_up(span_panels, fitting)) * PANEL;
      }
      if (block_rows == LEAST_ROWS) break;
    }
  }

  // Sums over some of K wait in C itself if it can hold them.
  static constexpr bool in_place = std::is_same_v<Out, float>;

  // Whether a group of rows of A can be read where it lies: as floats, or as whole pairs.
  bool lies_ready(int64_t height) const {
    return sizeof(A) * Kind::DEPTH == sizeof(Number) && !a_.transposed && !fused_.gelu_of_a &&
           height % ROWS == 0 && a_.stride % Kind::DEPTH == 0 &&
           depth_ % (Kind::DEPTH * tile::UNIT<Kind>) == 0;
  }

  // Asks for the part of C that a tile will be added to, and for where its slope is taken, while the
  // tile is computed.
  void fetch(const Place& place) const {
    constexpr int64_t LINE = 64 / sizeof(Out);
    for (int64_t i = 0; i < place.height; ++i)
      for (int64_t j = 0; j < place.width; j += LINE) {
        const int64_t index = (place.row + i) * columns_ + place.column + j;
        __builtin_prefetch(c_ + index, 1);
        if (fused_.slope_at) __builtin_prefetch(fused_.slope_at + index);
      }
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
          if (!first || fused_.accumulate) x += vector::load_some(c, some);
        } else {
          if (first && fused_.accumulate) x += vector::load_some(c, some);
          if (!first) x += vector::load(place.partial + (i * VECTORS + j) * LANES);
          if (!last) {
            vector::store(x, place.partial + (i * VECTORS + j) * LANES);
            continue;
          }
        }
        if (last && fused_.bias) x += vector::load_some(fused_.bias + column, some);
        if (last && fused_.slope_at)
          x *= activation::gelu_derivative(vector::load_some(fused_.slope_at + (c - c_), some));
        vector::store_some(x, c, some);
      }
  }

  Matrix<A> a_;
  Matrix<B> b_;
  Out* c_;
  int64_t rows_, columns_, depth_;
  Fused<Out> fused_;
  int64_t block_depth_, block_rows_, block_columns_;  // that are packed and multiplied at once
  int64_t span_columns_, row_blocks_, spans_;         // of tasks
};

}  // namespace matmul
