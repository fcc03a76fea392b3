// The custom call `fugaku_matmul`: C = op(A) op(B), or added to C.
#include "matmul.h"

#include "dtypes.h"

namespace {

namespace ffi = xla::ffi;
using packing::Matrix;

// Of all combinations of types, those that a model has.
template <class A, class B, class Out>
constexpr bool useful = (std::is_same_v<B, A> || std::is_same_v<B, float>) &&
                        (std::is_same_v<Out, A> || std::is_same_v<Out, float>);

template <class A, class B, class Out>
ffi::Error multiply(ffi::ThreadPool threads, ffi::AnyBuffer a, ffi::AnyBuffer b,
                    ffi::AnyBuffer c, bool transpose_a, bool transpose_b, bool accumulate) {
  const auto shape_a = a.dimensions(), shape_b = b.dimensions(), shape_c = c.dimensions();
  const int64_t batch = shape_c[0], rows = shape_c[1], columns = shape_c[2];
  const int64_t depth = shape_a[transpose_a ? 1 : 2];
  const auto element = [&](int64_t i) {
    const Matrix<A> left{dtypes::data<A>(a) + i * rows * depth, shape_a[2], transpose_a};
    const Matrix<B> right{dtypes::data<B>(b) + i * depth * columns, shape_b[2], transpose_b};
    return matmul::Product<A, B, Out>(left, right, dtypes::data<Out>(c) + i * rows * columns, rows,
                                      columns, depth, accumulate,
                                      std::max<int64_t>(1, threads.num_threads() / batch));
  };
  if (batch == 0) return ffi::Error::Success();
  const int64_t tasks = element(0).tasks();
  pool::parallel_for(threads, batch * tasks,
                     [&](int64_t task) { element(task / tasks).run(task % tasks); });
  return ffi::Error::Success();
}

ffi::Error check(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::AnyBuffer c, bool transpose_a,
                 bool transpose_b) {
  const auto x = a.dimensions(), y = b.dimensions(), z = c.dimensions();
  if (x.size() != 3 || y.size() != 3 || z.size() != 3)
    return ffi::Error::InvalidArgument(
        "matmul: operands and result must be [batch, rows, columns]");
  if (x[0] != y[0] || x[0] != z[0] || x[transpose_a ? 2 : 1] != z[1] ||
      y[transpose_b ? 1 : 2] != z[2] || x[transpose_a ? 1 : 2] != y[transpose_b ? 2 : 1])
    return ffi::Error::InvalidArgument("matmul: the shapes of operands and result do not fit");
  return ffi::Error::Success();
}

// Arguments: A, B and, if `accumulate`, what C is added to (aliased with it).
ffi::Error run(ffi::ThreadPool threads, ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::RemainingArgs rest,
               ffi::Result<ffi::AnyBuffer> c, bool transpose_a, bool transpose_b, bool accumulate) {
  if (ffi::Error error = check(a, b, *c, transpose_a, transpose_b); error.failure()) return error;
  if (accumulate) {
    const auto given = rest.get<ffi::AnyBuffer>(0);
    if (!given || given->untyped_data() != c->untyped_data())
      return ffi::Error::InvalidArgument(
          "matmul: what is added to must be aliased with the result");
  }
  return dtypes::dispatch("matmul", a.element_type(), [&](auto a_type) {
    return dtypes::dispatch("matmul", b.element_type(), [&](auto b_type) {
      return dtypes::dispatch("matmul", c->element_type(), [&](auto c_type) {
        using A = typename decltype(a_type)::type;
        using B = typename decltype(b_type)::type;
        using Out = typename decltype(c_type)::type;
        if constexpr (useful<A, B, Out>)
          return multiply<A, B, Out>(threads, a, b, *c, transpose_a, transpose_b, accumulate);
        else
          return ffi::Error::InvalidArgument(
              "matmul: the second operand and the result must be of the first's type or float32");
      });
    });
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_matmul, run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<bool>("transpose_a")
                                  .Attr<bool>("transpose_b")
                                  .Attr<bool>("accumulate"));
