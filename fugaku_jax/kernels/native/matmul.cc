// The custom call `fugaku_matmul`: C = op(A) op(B), and what is done on the way in and out.
#include "matmul.h"

#include "dtypes.h"

namespace {

namespace ffi = xla::ffi;
using packing::Matrix;

// Of all combinations of types, those that a model has.
template <class A, class B, class Out>
constexpr bool useful = (std::is_same_v<B, A> || std::is_same_v<B, float>) &&
                        (std::is_same_v<Out, A> || std::is_same_v<Out, float>);

// How many matrices there are, and the sizes of each product.
struct Sizes {
  int64_t batch, rows, columns, depth;
};

template <class A, class B, class Out>
ffi::Error multiply(ffi::ThreadPool threads, ffi::AnyBuffer a, ffi::AnyBuffer b,
                    ffi::AnyBuffer c, const Sizes& x, bool transpose_a, bool transpose_b,
                    const matmul::Fused<Out>& fused) {
  if (c.element_count() == 0) return ffi::Error::Success();
  const Matrix<A> left{dtypes::data<A>(a), transpose_a ? x.rows : x.depth, transpose_a};
  const Matrix<B> right{dtypes::data<B>(b), transpose_b ? x.depth : x.columns, transpose_b};
  const matmul::Product<A, B, Out> product(left, right, dtypes::data<Out>(c), x.rows, x.columns,
                                           x.depth, fused,
                                           std::max<int64_t>(1, threads.num_threads() / x.batch));
  const int64_t tasks = product.tasks();
  pool::parallel_for(threads, x.batch * tasks,
                     [&](int64_t task) { product.of(task / tasks).run(task % tasks); });
  return ffi::Error::Success();
}

// Whether a buffer holds so many matrices of so many values, none of the sizes being negative.
bool holds(ffi::AnyBuffer buffer, int64_t batch, int64_t rows, int64_t columns) {
  return batch >= 0 && rows >= 0 && columns >= 0 &&
         int64_t(buffer.element_count()) == batch * rows * columns;
}

// Arguments: A and B, matrices one after the other; if `accumulate`, what C is added to (aliased
// with it); if `add_bias`, a row of fp32 that is added to every row; if `gelu_slope`, numbers of C's
// type and size, at which gelu's derivative multiplies it. With `gelu_of_a` A is gelu(A). Only the
// number of values of an array counts, not its dimensions.
ffi::Error run(ffi::ThreadPool threads, ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::RemainingArgs rest,
               ffi::Result<ffi::AnyBuffer> c, int64_t batch, int64_t rows, int64_t columns,
               int64_t depth, bool transpose_a, bool transpose_b, bool gelu_of_a, bool accumulate,
               bool add_bias, bool gelu_slope) {
  if (!holds(a, batch, rows, depth) || !holds(b, batch, depth, columns) ||
      !holds(*c, batch, rows, columns) ||
      rest.size() != size_t(accumulate) + size_t(add_bias) + size_t(gelu_slope))
    return ffi::Error::InvalidArgument("matmul: the operands and the result are not of these sizes");
  if (accumulate) {
    const auto given = rest.get<ffi::AnyBuffer>(0);
    if (!given || given->untyped_data() != c->untyped_data())
      return ffi::Error::InvalidArgument(
          "matmul: what is added to must be aliased with the result");
  }
  const float* bias = nullptr;
  if (add_bias) {
    const auto given = rest.get<ffi::Buffer<ffi::F32>>(accumulate);
    if (!given || given->element_count() != size_t(columns))
      return ffi::Error::InvalidArgument("matmul: the bias must be an fp32 number for each column");
    bias = given->typed_data();
  }
  void* slope_at = nullptr;
  if (gelu_slope) {
    const auto given = rest.get<ffi::AnyBuffer>(size_t(accumulate) + add_bias);
    if (!given || given->element_type() != c->element_type() ||
        given->element_count() != c->element_count())
      return ffi::Error::InvalidArgument(
          "matmul: the slope must be taken at numbers of the result's type and size");
    slope_at = given->untyped_data();
  }
  return dtypes::dispatch("matmul", a.element_type(), [&](auto a_type) {
    return dtypes::dispatch("matmul", b.element_type(), [&](auto b_type) {
      return dtypes::dispatch("matmul", c->element_type(), [&](auto c_type) {
        using A = typename decltype(a_type)::type;
        using B = typename decltype(b_type)::type;
        using Out = typename decltype(c_type)::type;
        if constexpr (useful<A, B, Out>)
          return multiply<A, B, Out>(threads, a, b, *c, {batch, rows, columns, depth}, transpose_a,
                                     transpose_b,
                                     {gelu_of_a, accumulate, bias, static_cast<Out*>(slope_at)});
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
                                  .Attr<int64_t>("batch")
                                  .Attr<int64_t>("rows")
                                  .Attr<int64_t>("columns")
                                  .Attr<int64_t>("depth")
                                  .Attr<bool>("transpose_a")
                                  .Attr<bool>("transpose_b")
                                  .Attr<bool>("gelu_of_a")
                                  .Attr<bool>("accumulate")
                                  .Attr<bool>("add_bias")
                                  .Attr<bool>("gelu_slope"));
