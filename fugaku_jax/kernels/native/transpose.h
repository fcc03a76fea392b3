// Squares of numbers on their diagonal, in registers.
#pragma once

#include <utility>

#include "vector.h"

namespace vector {

// Lane 2i from a, lane 2i + 1 from b: of their lower halves, or of their upper ones.
template <bool UPPER, class V, size_t... LANE>
[[gnu::always_inline]] inline V interleave(V a, V b, std::index_sequence<LANE...>) {
  return __builtin_shufflevector(a, b, (LANE / 2 + LANE % 2 * LANES + UPPER * LANES / 2)...);
}

// Transposes LANES × LANES numbers: row i becomes lane i of all rows.
//
// Each step moves the highest bit of a number's row to its lane and that of its lane to its row;
// after as many steps as an index has bits, row and lane have changed places.
template <class V>
[[gnu::always_inline]] inline void transpose(V (&rows)[LANES]) {
  constexpr auto lanes = std::make_index_sequence<LANES>{};
#pragma GCC unroll 4
  for (int64_t step = 1; step < LANES; step *= 2) {
    V next[LANES];
#pragma GCC unroll 16
    for (int64_t i = 0; i < LANES / 2; ++i) {
      next[2 * i] = interleave<false>(rows[i], rows[i + LANES / 2], lanes);
      next[2 * i + 1] = interleave<true>(rows[i], rows[i + LANES / 2], lanes);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < LANES; ++i) rows[i] = next[i];
  }
}

}  // namespace vector
