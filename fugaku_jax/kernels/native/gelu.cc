// The custom calls `fugaku_gelu` and `fugaku_gelu_backward`.
#include "activation.h"
#include "dtypes.h"
#include "elementwise.h"

namespace {

namespace ffi = xla::ffi;
using vector::Float;

// Argument: x. Result: gelu(x).
ffi::Error forward(ffi::ThreadPool threads, ffi::AnyBuffer x, ffi::Result<ffi::AnyBuffer> y) {
  if (!elementwise::alike(x, *y))
    return ffi::Error::InvalidArgument("gelu: x and y must have the same type and shape");
  return dtypes::dispatch("gelu", x.element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    elementwise::apply<T>(
        threads, x.element_count(), dtypes::data<T>(*y),
        [](Float x) { return activation::gelu(x); }, dtypes::data<T>(x));
    return ffi::Error::Success();
  });
}

// Arguments: x and the gradient of gelu(x). Result: the gradient of x.
ffi::Error backward(ffi::ThreadPool threads, ffi::AnyBuffer x, ffi::AnyBuffer dy,
                    ffi::Result<ffi::AnyBuffer> dx) {
  if (!elementwise::alike(x, dy) || !elementwise::alike(x, *dx))
    return ffi::Error::InvalidArgument(
        "gelu_backward: x, dy and dx must have the same type and shape");
  return dtypes::dispatch("gelu_backward", x.element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    elementwise::apply<T>(
        threads, x.element_count(), dtypes::data<T>(*dx),
        [](Float x, Float dy) { return dy * activation::gelu_derivative(x); }, dtypes::data<T>(x),
        dtypes::data<T>(dy));
    return ffi::Error::Success();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_gelu, forward);
XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_gelu_backward, backward);
