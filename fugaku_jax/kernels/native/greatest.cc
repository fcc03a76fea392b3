// Where each row of logits is greatest, and the logarithm of the sum of its exponentials: what the
// choice of a token needs of them, read twice while the row lies in a core's cache.
#include <algorithm>

#include "dtypes.h"
#include "elementary.h"
#include "pool.h"

namespace {

namespace ffi = xla::ffi;
using vector::Float;
using vector::LANES;

constexpr int64_t BLOCK = 64 * LANES;  // of which one is searched number by number
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

struct Found {
  int64_t which;
  float log_sum;
};

Found find(const float* x, int64_t count) {
  float top = NOTHING;
  int64_t where = 0;
  for (int64_t start = 0; start < count; start += BLOCK) {
    const int64_t end = std::min(count, start + BLOCK);
    Float highest = vector::splat(NOTHING);
    int64_t i = start;
    for (; i + LANES <= end; i += LANES) highest = vector::max(vector::load(x + i), highest);
    if (i < end) highest = vector::max(vector::load_some(x + i, end - i, NOTHING), highest);
    const float here = vector::max(highest);
    if (here > top) {
      top = here;
      where = start;
    }
  }
  const float base = std::isinf(top) ? 0 : top;
  Float sum{};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) sum += vector::exp(vector::load(x + i) - base);
  if (i < count) sum += vector::exp(vector::load_some(x + i, count - i, NOTHING) - base);
  const float total = vector::sum(sum);
  // A NaN is never larger, but comes out of the exponentials. It counts as greatest.
  const auto is_it = [&](float y) { return std::isnan(total) ? std::isnan(y) : y == top; };
  const float* first = std::find_if(x + (std::isnan(total) ? 0 : where), x + count, is_it);
  return {first == x + count ? 0 : first - x, std::log(total) + base};
}

ffi::Error greatest(ffi::ThreadPool threads, ffi::BufferR2<ffi::F32> logits,
                    ffi::BufferR0<ffi::S32> columns, ffi::Result<ffi::BufferR1<ffi::S32>> which,
                    ffi::Result<ffi::BufferR1<ffi::F32>> log_sum) {
  const int64_t rows = logits.dimensions()[0], width = logits.dimensions()[1];
  if (int64_t(which->element_count()) != rows || int64_t(log_sum->element_count()) != rows)
    return ffi::Error::InvalidArgument("greatest: there must be one number for each row");
  const int64_t used = std::clamp<int64_t>(columns.typed_data()[0], 0, width);
  pool::parallel_for(threads, rows, [&](int64_t row) {
    const Found found = find(logits.typed_data() + row * width, used);
    which->typed_data()[row] = int32_t(found.which);
    log_sum->typed_data()[row] = found.log_sum;
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_greatest, greatest);
