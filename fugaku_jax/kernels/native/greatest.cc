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

float highest(const float* x, int64_t count) {
  Float most = vector::splat(NOTHING);
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) most = vector::max(vector::load(x + i), most);
  if (i < count) most = vector::max(vector::load_some(x + i, count - i, NOTHING), most);
  return vector::max(most);
}

// Where the first `candidates` numbers are greatest, and the logarithm of all `count`'s sum.
Found find(const float* x, int64_t candidates, int64_t count) {
  float top = NOTHING;
  int64_t where = 0;
  for (int64_t start = 0; start < candidates; start += BLOCK) {
    const float here = highest(x + start, std::min(BLOCK, candidates - start));
    if (here > top) {
      top = here;
      where = start;
    }
  }
  const float most = std::max(highest(x + candidates, count - candidates), top);
  const float base = std::isinf(most) ? 0 : most;
  Float sum{};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) sum += vector::exp(vector::load(x + i) - base);
  if (i < count) sum += vector::exp(vector::load_some(x + i, count - i, NOTHING) - base);
  const float total = vector::sum(sum);
  // A NaN is never larger, but comes out of the exponentials. It counts as greatest.
  const float *end = x + candidates, *first = end;
  if (std::isnan(total)) first = std::find_if(x, end, [](float y) { return std::isnan(y); });
  if (first == end) first = std::find(x + where, end, top);
  return {first == end ? 0 : first - x, std::log(total) + base};
}

ffi::Error greatest(ffi::ThreadPool threads, ffi::BufferR2<ffi::F32> logits,
                    ffi::BufferR0<ffi::S32> candidates, ffi::BufferR0<ffi::S32> columns,
                    ffi::Result<ffi::BufferR1<ffi::S32>> which,
                    ffi::Result<ffi::BufferR1<ffi::F32>> log_sum) {
  const int64_t rows = logits.dimensions()[0], width = logits.dimensions()[1];
  if (int64_t(which->element_count()) != rows || int64_t(log_sum->element_count()) != rows)
    return ffi::Error::InvalidArgument("greatest: there must be one number for each row");
  const int64_t count = std::clamp<int64_t>(columns.typed_data()[0], 0, width);
  const int64_t some = std::clamp<int64_t>(candidates.typed_data()[0], 0, count);
  pool::parallel_for(threads, rows, [&](int64_t row) {
    const Found found = find(logits.typed_data() + row * width, some, count);
    which->typed_data()[row] = int32_t(found.which);
    log_sum->typed_data()[row] = found.log_sum;
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_greatest, greatest);
