// The custom calls `fugaku_adamw`, one pass over memory, and `fugaku_sum_of_squares`, by which
// gradients are clipped before it.
#include <cmath>

#include "dtypes.h"
#include "elementary.h"
#include "elementwise.h"
#include "scratch.h"

namespace {

namespace ffi = xla::ffi;
using elementwise::AT_ONCE;
using elementwise::BLOCK;
using vector::Float;
using vector::LANES;
using vector::load_some;
using vector::store_some;

// Elements by which memory is asked for ahead of its use. Seven streams are more than the processor
// foresees by itself: an update took 12 % less time on a Skylake, at 256 as at 512. Non-temporal
// stores, which leave the caches out, gained nothing: each line has just been read.
constexpr int64_t AHEAD = 512;

// What an update needs besides the arrays.
struct Numbers {
  float factor, rate, decay, epsilon;
  float keep_mean, add_mean, keep_square, add_square;
  float correct_mean, correct_square;  // 1 / (1 - beta^count)
};

struct State {
  float *parameter, *mean, *square;
};

// Updates `count` <= LANES elements from the i-th on (Loshchilov and Hutter, 2017, algorithm 2).
template <class T>
[[gnu::always_inline]] inline void update(const State& state, const T* gradient, int64_t i,
                                          int64_t count, const Numbers& by) {
  __builtin_prefetch(gradient + i + AHEAD);
  __builtin_prefetch(state.parameter + i + AHEAD, 1);
  __builtin_prefetch(state.mean + i + AHEAD, 1);
  __builtin_prefetch(state.square + i + AHEAD, 1);
  const Float g = load_some(gradient + i, count) * by.factor;
  const Float parameter = load_some(state.parameter + i, count);
  const Float mean = by.keep_mean * load_some(state.mean + i, count) + by.add_mean * g;
  const Float square =
      by.keep_square * load_some(state.square + i, count) + by.add_square * (g * g);
  const Float root = vector::square_root(square * by.correct_square) + by.epsilon;
  const Float direction =
      mean * by.correct_mean * vector::reciprocal(root) + by.decay * parameter;
  store_some(parameter - by.rate * direction, state.parameter + i, count);
  store_some(mean, state.mean + i, count);
  store_some(square, state.square + i, count);
}

template <class T>
void update_all(ffi::ThreadPool threads, const State& state, const T* gradient, int64_t count,
                const Numbers& by) {
  elementwise::for_each_block(threads, count, [&](int64_t start, int64_t length) {
    const int64_t end = start + length;
    int64_t i = start;
    for (; i + LANES <= end; i += LANES) update(state, gradient, i, LANES, by);
    if (i < end) update(state, gradient, i, end - i, by);
  });
}

bool is_updated(ffi::AnyBuffer old, ffi::AnyBuffer result) {
  return elementwise::alike(old, result) && old.untyped_data() == result.untyped_data();
}

constexpr char WEIGHT_DECAY[] = "weight_decay", BETA1[] = "beta1", BETA2[] = "beta2",
               EPSILON[] = "epsilon";

// Arguments: parameter, mean, square (fp32, updated where they lie) and gradient of one shape, and
// the scalars that `adamw.py` describes. Results: the first three.
ffi::Error adamw(ffi::ThreadPool threads, ffi::AnyBuffer parameter, ffi::AnyBuffer mean,
                 ffi::AnyBuffer square, ffi::AnyBuffer gradient, ffi::BufferR0<ffi::F32> factor,
                 ffi::BufferR0<ffi::PRED> apply, ffi::BufferR0<ffi::S32> count,
                 ffi::BufferR0<ffi::F32> learning_rate, ffi::Result<ffi::AnyBuffer> new_parameter,
                 ffi::Result<ffi::AnyBuffer> new_mean, ffi::Result<ffi::AnyBuffer> new_square,
                 ffi::Attr<double, WEIGHT_DECAY> weight_decay, ffi::Attr<double, BETA1> beta1,
                 ffi::Attr<double, BETA2> beta2, ffi::Attr<double, EPSILON> epsilon) {
  if (parameter.element_type() != ffi::F32 || !elementwise::alike(parameter, mean) ||
      !elementwise::alike(parameter, square) ||
      !std::ranges::equal(parameter.dimensions(), gradient.dimensions()))
    return ffi::Error::InvalidArgument(
        "adamw: parameter and moments must be fp32 and of the gradient's shape");
  if (!is_updated(parameter, *new_parameter) || !is_updated(mean, *new_mean) ||
      !is_updated(square, *new_square))
    return ffi::Error::InvalidArgument("adamw: the results must be aliased to the state");
  if (!*apply.typed_data()) return ffi::Error::Success();
  const double updates = *count.typed_data();
  const Numbers by = {
      .factor = *factor.typed_data(),
      .rate = *learning_rate.typed_data(),
      .decay = float(*weight_decay),
      .epsilon = float(*epsilon),
      .keep_mean = float(*beta1),
      .add_mean = float(1 - *beta1),
      .keep_square = float(*beta2),
      .add_square = float(1 - *beta2),
      .correct_mean = float(1 / (1 - std::pow(*beta1, updates))),
      .correct_square = float(1 / (1 - std::pow(*beta2, updates))),
  };
  const State state = {dtypes::data<float>(parameter), dtypes::data<float>(mean),
                       dtypes::data<float>(square)};
  return dtypes::dispatch("adamw", gradient.element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    update_all(threads, state, dtypes::data<T>(gradient), gradient.element_count(), by);
    return ffi::Error::Success();
  });
}

template <class T>
float sum_of_block(const T* x, int64_t count) {
  Float sums[AT_ONCE] = {Float{}, Float{}, Float{}, Float{}};
  elementwise::for_each_register(count, [&](int64_t i, int64_t some, int64_t j) {
    const Float part = load_some(x + i, some);
    sums[j] += part * part;
  });
  return elementwise::total(sums);
}

// Argument: x. Result: the sum of its squares, an fp32 scalar.
ffi::Error sum_of_squares(ffi::ThreadPool threads, ffi::AnyBuffer x,
                          ffi::Result<ffi::BufferR0<ffi::F32>> result) {
  const int64_t count = x.element_count(), blocks = (count + BLOCK - 1) / BLOCK;
  struct SumsOfBlocks;
  float* sums = scratch<SumsOfBlocks, float>(blocks);
  return dtypes::dispatch("sum_of_squares", x.element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    elementwise::for_each_block(threads, count, [&](int64_t start, int64_t length) {
      sums[start / BLOCK] = sum_of_block(dtypes::data<T>(x) + start, length);
    });
    double total = 0;
    for (int64_t block = 0; block < blocks; ++block) total += sums[block];
    *result->typed_data() = float(total);
    return ffi::Error::Success();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_adamw, adamw);
XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_sum_of_squares, sum_of_squares);
