// A token for each row of logits, drawn by one random number: what temperature, the k most probable
// tokens and the most probable ones of a total p leave, by kernels/draw.py's rules.
#include <algorithm>

#include "dtypes.h"
#include "elementary.h"
#include "pool.h"
#include "scratch.h"

namespace {

namespace ffi = xla::ffi;
using vector::Float;
using vector::Int;
using vector::LANES;

constexpr int64_t UNROLLED = 4, BLOCK = 16 * UNROLLED * LANES;
constexpr float INFINITE = std::numeric_limits<float>::infinity();

// A row that only this thread works on, filled up to whole blocks by what is never drawn.
struct Row {
  float *logits, *weights;
  int64_t size;
};

// The sum over lanes of `term(i)`, the register that begins at number i.
template <class Term>
[[gnu::always_inline]] inline auto add_up(int64_t begin, int64_t end, const Term& term) {
  decltype(term(begin)) sums[UNROLLED]{};
  for (int64_t i = begin; i < end; i += UNROLLED * LANES)
#pragma GCC unroll 4
    for (int64_t j = 0; j < UNROLLED; ++j) sums[j] += term(i + j * LANES);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// The greatest float at which `is_enough`, by halving; -inf if none is. A float's bits, turned round
// where it is negative, are an integer of the same order.
template <class IsEnough>
float greatest(const IsEnough& is_enough) {
  const auto as_float = [](int32_t ordered) {
    constexpr int32_t LOWEST = std::numeric_limits<int32_t>::min();
    return std::bit_cast<float>(ordered < 0 ? LOWEST - (ordered + 1) : ordered);
  };
  int32_t high = std::bit_cast<int32_t>(INFINITE), low = -high - 1;
  for (int bit = 0; bit < 32; ++bit) {
    const int32_t middle = (low >> 1) + (high >> 1) + (low & high & 1);
    (is_enough(as_float(middle)) ? low : high) = middle;
  }
  return as_float(low);
}

float weight(const Row& row, int64_t begin, int64_t end) {
  return vector::sum(
      add_up(begin, end, [&](int64_t i) { return vector::load(row.weights + i); }));
}

// The k-th greatest logit.
float least_of_top_k(const Row& row, int64_t k) {
  return greatest([&](float threshold) {
    const Float all = vector::splat(threshold);
    const Int found =
        add_up(0, row.size, [&](int64_t i) { return vector::load(row.logits + i) >= all; });
    int64_t count = 0;
    for (int64_t i = 0; i < LANES; ++i) count -= found[i];
    return count >= k;
  });
}

// The greatest logit such that it and the greater ones have the weight p together.
float least_of_top_p(const Row& row, float p) {
  return greatest([&](float threshold) {
    const Float all = vector::splat(threshold);
    return vector::sum(add_up(0, row.size, [&](int64_t i) {
             return vector::load(row.logits + i) >= all ? vector::load(row.weights + i) : Float{};
           })) >= p;
  });
}

// Where the sum of weights first exceeds the share `uniform` of that of all.
int64_t draw(const Row& row, float uniform) {
  double total = 0, before = 0;
  for (int64_t start = 0; start < row.size; start += BLOCK) total += weight(row, start, start + BLOCK);
  int64_t last = 0;  // where something may be drawn, should rounding pass over the end
  for (int64_t start = 0; start < row.size; start += BLOCK) {
    const double here = weight(row, start, start + BLOCK);
    if (before + here <= uniform * total) {
      before += here;
      continue;
    }
    for (int64_t i = start; i < start + BLOCK; ++i) {
      if (row.weights[i] > 0) last = i;
      if ((before += row.weights[i]) > uniform * total) return i;
    }
    return last;
  }
  return last;
}

int64_t choose(const float* logits, int64_t count, float temperature, int64_t k, float p,
               float uniform) {
  const int64_t size = (count + BLOCK - 1) / BLOCK * BLOCK;
  const Row row{scratch<struct Logits, float>(size), scratch<struct Weights, float>(size), size};
  std::transform(logits, logits + count, row.logits, [&](float x) { return x / temperature; });
  std::fill(row.logits + count, row.logits + size, -INFINITE);
  Float most = vector::splat(-INFINITE);
  for (int64_t i = 0; i < size; i += LANES) {
    const Float x = vector::load(row.logits + i);
    most = (x <= most) | (most != most) ? most : x;  // a NaN stays
  }
  const float top = vector::max(most);
  if (std::isnan(vector::sum(most)) || std::isinf(top)) return 0;
  const auto weigh = [&](float least) {
    const Float bound = vector::splat(least);
    for (int64_t i = 0; i < size; i += LANES) {
      const Float x = vector::load(row.logits + i);
      vector::store(x >= bound ? vector::exp(x - top) : Float{}, row.weights + i);
    }
  };
  const bool few = k > 0 && k < count;
  float least = few ? least_of_top_k(row, k) : -INFINITE;
  weigh(least);
  if (p < 1) {
    least = std::max(least, least_of_top_p(row, p * weight(row, 0, size)));
    weigh(least);
  }
  return draw(row, uniform);
}

ffi::Error run(ffi::ThreadPool threads, ffi::BufferR2<ffi::F32> logits,
               ffi::BufferR0<ffi::S32> candidates, ffi::BufferR1<ffi::F32> temperature,
               ffi::BufferR1<ffi::S32> top_k, ffi::BufferR1<ffi::F32> top_p,
               ffi::BufferR1<ffi::F32> uniform, ffi::Result<ffi::BufferR1<ffi::S32>> which) {
  const int64_t rows = logits.dimensions()[0], width = logits.dimensions()[1];
  for (const size_t count : {temperature.element_count(), top_k.element_count(),
                             top_p.element_count(), uniform.element_count(),
                             which->element_count()})
    if (int64_t(count) != rows)
      return ffi::Error::InvalidArgument("draw: there must be one number for each row");
  const int64_t count = std::clamp<int64_t>(candidates.typed_data()[0], 0, width);
  pool::parallel_for(threads, rows, [&](int64_t row) {
    const float heat = temperature.typed_data()[row];
    int64_t found = 0;
    if (heat > 0 && count > 0)
      found = choose(logits.typed_data() + row * width, count, heat, top_k.typed_data()[row],
                     top_p.typed_data()[row], uniform.typed_data()[row]);
    which->typed_data()[row] = int32_t(found);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_draw, run);
