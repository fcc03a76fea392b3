// Kernels with the faults that `make sanitize` is there to find, for `test_sanitizers.py`.
#include <limits>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Numbers = ffi::BufferR1<ffi::S32>;

// Doubles `count` numbers, in memory that may have fewer.
ffi::Error double_all(ffi::BufferR0<ffi::S32> count, Numbers x, ffi::Result<Numbers> y) {
  for (int32_t i = 0; i < *count.typed_data(); ++i)
    y->typed_data()[i] = x.typed_data()[i] + x.typed_data()[i];
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_double_all, double_all);
