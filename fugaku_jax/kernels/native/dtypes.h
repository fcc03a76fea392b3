// From the types of XLA's buffers to those of the kernels.
#pragma once

#include <string>
#include <type_traits>

#include "vector.h"

namespace dtypes {

namespace ffi = xla::ffi;

template <class T>
T* data(ffi::AnyBuffer buffer) {
  return static_cast<T*>(buffer.untyped_data());
}

// Calls `body` with `std::type_identity<T>`, T being float, Half or Bfloat16.
template <class Body>
ffi::Error dispatch(const char* name, ffi::DataType type, Body&& body) {
  switch (type) {
    case ffi::F32:
      return body(std::type_identity<float>{});
    case ffi::F16:
      return body(std::type_identity<vector::Half>{});
    case ffi::BF16:
      return body(std::type_identity<vector::Bfloat16>{});
    default:
      return ffi::Error::InvalidArgument(std::string(name) +
                                         ": operands must be float32, float16 or bfloat16");
  }
}

}  // namespace dtypes
