// The softmax of cross-entropy over logits that were just computed, and its gradient, row by row.
//
// `fugaku_softmax` replaces the logits by their exponentials, so that the gradient needs no second
// exponential. Between the two calls, devices that share the vocabulary add up what they found.
#include "dtypes.h"
#include "elementary.h"
#include "pool.h"

namespace {

namespace ffi = xla::ffi;
using vector::Float;
using vector::LANES;

constexpr int64_t ROWS_OF_TASK = 4;
constexpr float IMPOSSIBLE = -std::numeric_limits<float>::infinity();  // the logit of padding

// Of logits [..., V] whose leading dimensions are all of R rows.
std::pair<int64_t, int64_t> rows_and_width(const ffi::Buffer<ffi::F32>& logits) {
  const auto shape = logits.dimensions();
  const int64_t width = shape.size() == 0 ? 1 : shape.back();
  return {width > 0 ? logits.element_count() / width : 0, width};
}

// Replaces logits `[..., V]` by e^(logit - maximum of the row), those of columns from `columns` on
// by 0. Gives for each row its maximum, the sum of the exponentials, and the target's logit (0 if
// the target is not among the columns, as another device may have it).
ffi::Error softmax(ffi::ThreadPool threads, ffi::Buffer<ffi::F32> given,
                   ffi::BufferR1<ffi::S32> targets, ffi::BufferR0<ffi::S32> columns,
                   ffi::Result<ffi::Buffer<ffi::F32>> logits,
                   ffi::Result<ffi::BufferR1<ffi::F32>> maximum,
                   ffi::Result<ffi::BufferR1<ffi::F32>> total,
                   ffi::Result<ffi::BufferR1<ffi::F32>> target_logit) {
  const auto [rows, width] = rows_and_width(*logits);
  if (given.untyped_data() != logits->untyped_data() ||
      !std::ranges::equal(given.dimensions(), logits->dimensions()))
    return ffi::Error::InvalidArgument("softmax: the logits must be aliased with the first result");
  for (const int64_t size : {targets.element_count(), maximum->element_count(),
                             total->element_count(), target_logit->element_count()})
    if (size != rows)
      return ffi::Error::InvalidArgument("softmax: there must be one number for each row");
  const int64_t used = std::clamp<int64_t>(columns.typed_data()[0], 0, width);
  const auto run = [&](int64_t row) {
    float* x = logits->typed_data() + row * width;
    const int64_t target = targets.typed_data()[row];
    const bool here = target >= 0 && target < width;
    target_logit->typed_data()[row] = !here ? 0 : target < used ? x[target] : IMPOSSIBLE;
    // A NaN is never larger; it comes out of the exponentials.
    constexpr float LOWEST = std::numeric_limits<float>::lowest();
    Float highest = vector::splat(LOWEST);
    int64_t i = 0;
    for (; i + LANES <= used; i += LANES) highest = vector::max(vector::load(x + i), highest);
    if (i < used) highest = vector::max(vector::load_some(x + i, used - i, LOWEST), highest);
    float top = vector::max(highest);
    if (std::isinf(top)) top = 0;  // the sum is infinite then, and not NaN
    Float sum{};
    for (i = 0; i + LANES <= used; i += LANES) {
      const Float e = vector::exp(vector::load(x + i) - top);
      vector::store(e, x + i);
      sum += e;
    }
    if (i < used) {
      const Float e = vector::exp(vector::load_some(x + i, used - i, IMPOSSIBLE) - top);
      vector::store_some(e, x + i, used - i);
      sum += e;
    }
    std::fill(x + used, x + width, 0.0f);
    maximum->typed_data()[row] = top;
    total->typed_data()[row] = vector::sum(sum);
  };
  pool::parallel_for(threads, (rows + ROWS_OF_TASK - 1) / ROWS_OF_TASK, [&](int64_t task) {
    for (int64_t row = task * ROWS_OF_TASK; row < std::min(rows, (task + 1) * ROWS_OF_TASK); ++row)
      run(row);
  });
  return ffi::Error::Success();
}

// gradient[r, v] = scale[r] exponentials[r, v], less weight[r] where v is the target.
template <class T>
ffi::Error gradient(ffi::ThreadPool threads, const ffi::Buffer<ffi::F32>& exponentials,
                    const ffi::BufferR1<ffi::F32>& scale, const ffi::BufferR1<ffi::S32>& targets,
                    const ffi::BufferR1<ffi::F32>& weight, T* result) {
  const auto [rows, width] = rows_and_width(exponentials);
  pool::parallel_for(threads, rows, [&](int64_t row) {
    const float* e = exponentials.typed_data() + row * width;
    T* out = result + row * width;
    const float factor = scale.typed_data()[row];
    const int64_t target = targets.typed_data()[row];
    const bool here = target >= 0 && target < width;
    const float at_target = here ? factor * e[target] - weight.typed_data()[row] : 0;
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) vector::store(factor * vector::load(e + i), out + i);
    if (i < width)
      vector::store_some(factor * vector::load_some(e + i, width - i), out + i, width - i);
    if (here) vector::store_some(vector::splat(at_target), out + target, 1);
  });
  return ffi::Error::Success();
}

ffi::Error softmax_gradient(ffi::ThreadPool threads, ffi::Buffer<ffi::F32> exponentials,
                            ffi::BufferR1<ffi::F32> scale, ffi::BufferR1<ffi::S32> targets,
                            ffi::BufferR1<ffi::F32> weight, ffi::Result<ffi::AnyBuffer> result) {
  const size_t rows = rows_and_width(exponentials).first;
  if (scale.element_count() != rows || targets.element_count() != rows ||
      weight.element_count() != rows ||
      !std::ranges::equal(result->dimensions(), exponentials.dimensions()))
    return ffi::Error::InvalidArgument("softmax_gradient: the shapes do not fit");
  return dtypes::dispatch("softmax_gradient", result->element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    return gradient<T>(threads, exponentials, scale, targets, weight, dtypes::data<T>(*result));
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_softmax, softmax);
XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_softmax_gradient, softmax_gradient);
