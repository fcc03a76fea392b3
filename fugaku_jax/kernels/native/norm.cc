// The custom calls `fugaku_layer_norm` and `fugaku_layer_norm_backward`: each row of `[..., D]` is
// normalised, to a mean of 0 too if `centred`. The backward pass computes the statistics again: the
// row has to be read anyway.
#include <algorithm>
#include <cmath>

#include "dtypes.h"
#include "elementwise.h"
#include "pool.h"
#include "scratch.h"
#include "vector.h"

namespace {

namespace ffi = xla::ffi;
using elementwise::AT_ONCE;
using elementwise::for_each_register;
using elementwise::total;
using vector::Float;
using vector::load_some;
using vector::store_some;

constexpr int64_t ROWS_OF_TASK = 16;  // at least
constexpr int64_t MOST_TASKS = 64;    // of a backward pass: each has its own sums over rows
constexpr int64_t COLUMNS_OF_TASK = 1024;

struct Settings {
  float epsilon;
  bool centred;
};

struct Statistics {
  float mean, inverse;  // what is subtracted, and 1 / sqrt(mean square of the rest + epsilon)
};

template <class T>
Statistics statistics(const T* x, int64_t width, Settings settings) {
  float mean = 0;
  if (settings.centred) {
    Float sums[AT_ONCE] = {Float{}, Float{}, Float{}, Float{}};
    for_each_register(width, [&](int64_t i, int64_t some, int64_t j) {
      sums[j] += load_some(x + i, some);
    });
    mean = total(sums) / width;
  }
  Float squares[AT_ONCE] = {Float{}, Float{}, Float{}, Float{}};
  for_each_register(width, [&](int64_t i, int64_t some, int64_t j) {
    const Float centred = load_some(x + i, some, mean) - mean;  // 0 where there is nothing
    squares[j] += centred * centred;
  });
  return {mean, 1 / std::sqrt(total(squares) / width + settings.epsilon)};
}

template <class T>
void normalise(const T* x, const float* scale, const float* bias, Settings settings, int64_t width,
               T* y) {
  const auto [mean, inverse] = statistics(x, width, settings);
  for_each_register(width, [&](int64_t i, int64_t some, int64_t) {
    const Float normal = (load_some(x + i, some) - mean) * inverse;
    store_some(normal * load_some(scale + i, some) + load_some(bias + i, some), y + i, some);
  });
}

// The gradient of a row; adds what it contributes to those of scale and bias.
//
// With n the normalised row and g = dy scale: dx = inverse (g - mean(g) - n mean(g n)), but without
// mean(g) if the row's own was not subtracted.
template <class T>
void differentiate(const T* x, const float* scale, const T* dy, Settings settings, int64_t width,
                   T* dx, float* d_scale, float* d_bias) {
  const auto [mean, inverse] = statistics(x, width, settings);
  Float sums[AT_ONCE] = {Float{}, Float{}, Float{}, Float{}};
  Float products[AT_ONCE] = {Float{}, Float{}, Float{}, Float{}};
  for_each_register(width, [&](int64_t i, int64_t some, int64_t j) {
    const Float d = load_some(dy + i, some);
    const Float normal = (load_some(x + i, some, mean) - mean) * inverse;
    const Float g = d * load_some(scale + i, some);
    sums[j] += g;
    products[j] += g * normal;
    store_some(load_some(d_scale + i, some) + d * normal, d_scale + i, some);
    store_some(load_some(d_bias + i, some) + d, d_bias + i, some);
  });
  const float mean_g = settings.centred ? total(sums) / width : 0;
  const float mean_gn = total(products) / width;
  for_each_register(width, [&](int64_t i, int64_t some, int64_t) {
    const Float normal = (load_some(x + i, some) - mean) * inverse;
    const Float g = load_some(dy + i, some) * load_some(scale + i, some);
    store_some((g - mean_g - normal * mean_gn) * inverse, dx + i, some);
  });
}

constexpr char EPSILON[] = "epsilon";
using Epsilon = ffi::Attr<float, EPSILON>;
constexpr char CENTRED[] = "centred";
using Centred = ffi::Attr<bool, CENTRED>;

// Whether x has rows, and each of the vectors is fp32 and as long as a row.
bool fit(ffi::AnyBuffer x, std::initializer_list<ffi::AnyBuffer> vectors) {
  return x.dimensions().size() > 0 && std::ranges::all_of(vectors, [&](ffi::AnyBuffer vector) {
           return vector.element_type() == ffi::F32 &&
                  vector.element_count() == size_t(x.dimensions().back());
         });
}

// Arguments: x `[..., D]`; scale and bias `[D]` in fp32. Result: like x.
ffi::Error forward(ffi::ThreadPool threads, ffi::AnyBuffer x, ffi::AnyBuffer scale,
                   ffi::AnyBuffer bias, ffi::Result<ffi::AnyBuffer> y, Epsilon epsilon,
                   Centred centred) {
  if (!elementwise::alike(x, *y) || !fit(x, {scale, bias}))
    return ffi::Error::InvalidArgument(
        "layer_norm: x and y must be alike, scale and bias fp32 and as long as a row");
  const int64_t width = x.dimensions().back(), rows = width ? x.element_count() / width : 0;
  return dtypes::dispatch("layer_norm", x.element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    pool::parallel_for(threads, (rows + ROWS_OF_TASK - 1) / ROWS_OF_TASK, [&](int64_t task) {
      const int64_t end = std::min(rows, (task + 1) * ROWS_OF_TASK);
      for (int64_t row = task * ROWS_OF_TASK; row < end; ++row)
        normalise(dtypes::data<T>(x) + row * width, dtypes::data<float>(scale),
                  dtypes::data<float>(bias), {*epsilon, *centred}, width,
                  dtypes::data<T>(*y) + row * width);
    });
    return ffi::Error::Success();
  });
}

// Sums `[tasks][2][width]` over tasks, in their order.
void add_up(ffi::ThreadPool threads, const float* partial, int64_t tasks, int64_t width,
            float* d_scale, float* d_bias) {
  const int64_t cuts = (width + COLUMNS_OF_TASK - 1) / COLUMNS_OF_TASK;
  pool::parallel_for(threads, 2 * cuts, [&](int64_t item) {
    const int64_t start = item / 2 * COLUMNS_OF_TASK;
    const int64_t count = std::min(COLUMNS_OF_TASK, width - start);
    float* target = (item % 2 ? d_bias : d_scale) + start;
    std::fill_n(target, count, 0.0f);
    for (int64_t task = 0; task < tasks; ++task) {
      const float* source = partial + (2 * task + item % 2) * width + start;
      for (int64_t i = 0; i < count; ++i) target[i] += source[i];
    }
  });
}

// Arguments: x, scale and the gradient of the result. Results: the gradients of x, scale and bias.
ffi::Error backward(ffi::ThreadPool threads, ffi::AnyBuffer x, ffi::AnyBuffer scale,
                    ffi::AnyBuffer dy, ffi::Result<ffi::AnyBuffer> dx,
                    ffi::Result<ffi::AnyBuffer> d_scale, ffi::Result<ffi::AnyBuffer> d_bias,
                    Epsilon epsilon, Centred centred) {
  if (!elementwise::alike(x, dy) || !elementwise::alike(x, *dx) ||
      !fit(x, {scale, *d_scale, *d_bias}))
    return ffi::Error::InvalidArgument(
        "layer_norm_backward: x and its gradients must be alike, scale and the gradients of scale "
        "and bias fp32 and as long as a row");
  const int64_t width = x.dimensions().back(), rows = width ? x.element_count() / width : 0;
  const int64_t height = std::max(ROWS_OF_TASK, (rows + MOST_TASKS - 1) / MOST_TASKS);
  const int64_t tasks = (rows + height - 1) / height;
  struct SumsOverRows;
  float* partial = scratch<SumsOverRows, float>(tasks * 2 * width);
  return dtypes::dispatch("layer_norm_backward", x.element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    pool::parallel_for(threads, tasks, [&](int64_t task) {
      float* sums = partial + task * 2 * width;
      std::fill_n(sums, 2 * width, 0.0f);
      for (int64_t row = task * height; row < std::min(rows, (task + 1) * height); ++row)
        differentiate(dtypes::data<T>(x) + row * width, dtypes::data<float>(scale),
                      dtypes::data<T>(dy) + row * width, {*epsilon, *centred}, width,
                      dtypes::data<T>(*dx) + row * width, sums, sums + width);
    });
    add_up(threads, partial, tasks, width, dtypes::data<float>(*d_scale),
           dtypes::data<float>(*d_bias));
    return ffi::Error::Success();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_layer_norm, forward);
XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_layer_norm_backward, backward);
