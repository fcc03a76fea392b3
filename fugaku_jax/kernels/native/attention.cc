// The custom calls `fugaku_attention_forward` and `fugaku_attention_backward`.
#include <optional>

#include "attention_backward.h"
#include "attention_forward.h"
#include "dtypes.h"

namespace {

namespace ffi = xla::ffi;
using attention::Heads;
using attention::Masks;
using attention::Shape;

ffi::Error refuse(const char* why) {
  return ffi::Error::InvalidArgument(std::string("attention: ") + why);
}

// q, k and v: [batch, length, heads, head_dim] each, or one buffer [batch, length, 3, heads,
// head_dim] that is given for all three.
struct Operands {
  ffi::AnyBuffer q, k, v;

  bool packed() const { return q.dimensions().size() == 5; }

  Shape shape() const {
    const auto x = q.dimensions(), y = k.dimensions();
    if (packed()) return {x[0], x[1], x[3], x[3], x[4]};
    return {x[0], x[1], x[2], y[2], x[3]};
  }

  ffi::Error check() const {
    const auto x = q.dimensions(), y = k.dimensions();
    if (q.element_type() != k.element_type() || q.element_type() != v.element_type())
      return refuse("q, k and v must have one type");
    if (k.dimensions() != v.dimensions()) return refuse("k and v must have one shape");
    if (packed()) {
      if (x[2] != 3 || x != y)
        return refuse("q, k and v must be [batch, length, 3, heads, head_dim]");
      return ffi::Error::Success();
    }
    if (x.size() != 4 || y.size() != 4)
      return refuse("q, k and v must be [batch, length, heads, head_dim]");
    if (x[0] != y[0] || x[1] != y[1] || x[3] != y[3]) return refuse("q and k do not fit");
    if (y[2] == 0 ? x[2] != 0 : x[2] % y[2] != 0)
      return refuse("the heads of q must be a multiple of those of k");
    return ffi::Error::Success();
  }
};

// Operand `number` of q, k, v, or the same of their gradients, in a buffer of its own or in one of
// all three.
template <class T>
Heads<T> heads_of(ffi::AnyBuffer buffer, int64_t number, const Shape& shape, bool packed) {
  using Plain = std::remove_const_t<T>;
  const int64_t heads = packed || number == 0 ? shape.heads : shape.groups;
  const int64_t size = heads * shape.head_dim;
  return {dtypes::data<Plain>(buffer) + (packed ? number * size : 0), packed ? 3 * size : size,
          shape.length, shape.head_dim};
}

template <class Buffer>
bool has_shape(const Buffer& buffer, std::initializer_list<int64_t> shape) {
  const auto x = buffer.dimensions();
  return std::equal(x.begin(), x.end(), shape.begin(), shape.end());
}

// What both calls are given beside their arrays.
struct Options {
  const int32_t* segments = nullptr;
  Masks masks{};

  // `numbers`: the two words of the masks' key, and the numbers of the first row and head.
  ffi::Error read(const Shape& shape, ffi::AnyBuffer numbers, ffi::RemainingArgs rest,
                  int64_t sequence_length, int64_t dropped_levels) {
    if (numbers.element_type() != ffi::U32 || !has_shape(numbers, {4}))
      return refuse("the numbers of the masks must be four of uint32");
    if (dropped_levels < 0 || dropped_levels >= Masks::LEVELS || sequence_length < 0)
      return refuse("a rate of dropout or a length is impossible");
    const uint32_t* word = dtypes::data<uint32_t>(numbers);
    masks = {{word[0], word[1]}, word[2], word[3], sequence_length, dropped_levels};
    if (rest.size() > 1) return refuse("too many operands");
    if (rest.size() == 1) {
      const auto given = rest.get<ffi::AnyBuffer>(0);
      if (!given || given->element_type() != ffi::S32 ||
          !has_shape(*given, {shape.batch, shape.length}))
        return refuse("segment numbers must be int32 [batch, length]");
      segments = dtypes::data<int32_t>(*given);
    }
    return ffi::Error::Success();
  }
};

// Whether there is no number to compute.
bool is_empty(const Shape& shape) {
  return shape.batch * shape.length * shape.heads * shape.head_dim == 0;
}

ffi::Error forward(ffi::ThreadPool threads, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                   ffi::AnyBuffer numbers, ffi::RemainingArgs rest,
                   ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::Buffer<ffi::F32>> log_sum,
                   int64_t sequence_length, int64_t dropped_levels) {
  const Operands operands{q, k, v};
  if (ffi::Error error = operands.check(); error.failure()) return error;
  const Shape shape = operands.shape();
  Options options;
  if (ffi::Error error = options.read(shape, numbers, rest, sequence_length, dropped_levels);
      error.failure())
    return error;
  if (out->element_type() != q.element_type() ||
      !has_shape(*out, {shape.batch, shape.length, shape.heads, shape.head_dim}) ||
      !has_shape(*log_sum, {shape.batch, shape.heads, shape.length}))
    return refuse("the results do not fit the operands");
  return dtypes::dispatch("attention", q.element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    if (is_empty(shape)) return ffi::Error::Success();
    const bool packed = operands.packed();
    const attention::Forward<T> work{shape,
                                     heads_of<const T>(q, 0, shape, packed),
                                     heads_of<const T>(k, 1, shape, packed),
                                     heads_of<const T>(v, 2, shape, packed),
                                     heads_of<T>(*out, 0, shape, false),
                                     log_sum->typed_data(),
                                     options.segments,
                                     options.masks};
    pool::parallel_for(threads, work.tasks(), [&](int64_t task) { work.run(task); });
    return ffi::Error::Success();
  });
}

// Results: the gradients of q, k and v, or of the one buffer that holds them.
ffi::Error backward(ffi::ThreadPool threads, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                    ffi::AnyBuffer numbers, ffi::AnyBuffer out,
                    ffi::Buffer<ffi::F32> log_sum, ffi::AnyBuffer d_out, ffi::RemainingArgs rest,
                    ffi::RemainingRets gradients, int64_t sequence_length,
                    int64_t dropped_levels) {
  const Operands operands{q, k, v};
  if (ffi::Error error = operands.check(); error.failure()) return error;
  const Shape shape = operands.shape();
  Options options;
  if (ffi::Error error = options.read(shape, numbers, rest, sequence_length, dropped_levels);
      error.failure())
    return error;
  for (const ffi::AnyBuffer& x : {out, d_out})
    if (x.element_type() != q.element_type() ||
        !has_shape(x, {shape.batch, shape.length, shape.heads, shape.head_dim}))
      return refuse("the result and its gradient do not fit the operands");
  if (!has_shape(log_sum, {shape.batch, shape.heads, shape.length}))
    return refuse("the sums of the weights do not fit the operands");
  const bool packed = operands.packed();
  const ffi::AnyBuffer primal[3] = {q, k, v};
  std::optional<ffi::AnyBuffer> gradient[3];
  if (gradients.size() != (packed ? 1 : 3)) return refuse("the number of gradients is wrong");
  for (size_t i = 0; i < 3; ++i) {
    auto given = gradients.get<ffi::AnyBuffer>(packed ? 0 : i);
    if (!given || (*given)->element_type() != q.element_type() ||
        (*given)->dimensions() != primal[i].dimensions())
      return refuse("a gradient must have the type and shape of its operand");
    gradient[i] = **given;
  }
  return dtypes::dispatch("attention", q.element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    if (is_empty(shape)) {  // without queries, keys there may be
      for (const auto& x : gradient) std::memset(x->untyped_data(), 0, x->size_bytes());
      return ffi::Error::Success();
    }
    const attention::Backward<T> work{shape,
                                      heads_of<const T>(q, 0, shape, packed),
                                      heads_of<const T>(k, 1, shape, packed),
                                      heads_of<const T>(v, 2, shape, packed),
                                      heads_of<const T>(out, 0, shape, false),
                                      heads_of<const T>(d_out, 0, shape, false),
                                      heads_of<T>(*gradient[0], 0, shape, packed),
                                      heads_of<T>(*gradient[1], 1, shape, packed),
                                      heads_of<T>(*gradient[2], 2, shape, packed),
                                      log_sum.typed_data(),
                                      options.segments,
                                      options.masks};
    work.run(threads);
    return ffi::Error::Success();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_attention_forward, forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("sequence_length")
                                  .Attr<int64_t>("dropped_levels"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_attention_backward, backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<int64_t>("sequence_length")
                                  .Attr<int64_t>("dropped_levels"));
