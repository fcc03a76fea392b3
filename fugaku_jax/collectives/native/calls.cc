// What XLA calls: `fugaku_torus`, which ends when its collective does and holds no thread of XLA's
// until then; and `fugaku_torus_start` and `fugaku_torus_done`, between which XLA computes.
#include <chrono>
#include <map>

#include "engines.h"
#include "started.h"

namespace torus {

double Started::now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace torus

namespace {

namespace ffi = xla::ffi;
using torus::Started;

uint32_t type_of(ffi::DataType type, uint32_t kind) {
  if (kind == torus::ALL_GATHER) return torus::BYTES;
  switch (type) {
    case ffi::F32:
      return torus::F32;
    case ffi::BF16:
      return torus::BF16;
    case ffi::F16:
      return torus::F16;
    case ffi::S32:
    case ffi::U32:
      return torus::I32;
    default:
      return UINT32_MAX;
  }
}

ffi::Error refusal(bool open) {
  return ffi::Error::InvalidArgument(
      open ? "sums over the torus are of float32, bfloat16, float16, int32 or uint32"
           : "the connections of this sum are closed");
}

ffi::Future call(ffi::AnyBuffer x, ffi::Result<ffi::AnyBuffer> y, int64_t handle, int64_t tag,
                 int64_t kind, int64_t length, ffi::Span<const int64_t> axes,
                 ffi::Span<const int64_t> legs, ffi::Span<const int64_t> chunks) {
  ffi::Promise promise;
  ffi::Future future(promise);
  const auto engine = torus::find_engine(handle);
  const uint32_t type = type_of(x.element_type(), uint32_t(kind));
  if (!engine || type == UINT32_MAX) {
    promise.SetError(refusal(engine != nullptr));
    return future;
  }
  torus::Request request =
      torus::make_request(uint64_t(tag), uint32_t(kind), type, length, axes, legs, chunks);
  request.source = static_cast<const std::byte*>(x.untyped_data());
  request.target = static_cast<std::byte*>(y->untyped_data());
  request.done = [promise](const std::string* failure) mutable {
    if (failure)
      promise.SetError(ffi::Error(ffi::ErrorCode::kAborted, *failure));
    else
      promise.SetAvailable();
  };
  engine->submit(std::move(request));
  return future;
}

// What is under way, by its ticket; and when what happened, if anybody wants to know.
struct All {
  std::mutex mutex;
  std::map<uint64_t, std::shared_ptr<Started>> started;
  uint64_t last = 0;
  bool recording = false;
  std::vector<torus::Moments> recorded;
};

// Never destroyed, as engines are not.
All& all() {
  static All& one = *new All;
  return one;
}

using Array = std::pair<std::byte*, int64_t>;

Array array_of(const ffi::AnyBuffer& buffer) {
  return {static_cast<std::byte*>(buffer.untyped_data()), int64_t(buffer.size_bytes())};
}

// Starts a collective over arrays of one type side by side, and gives it a ticket.
ffi::Error start(ffi::RemainingArgs inputs, ffi::ResultBufferR1<ffi::U32> ticket, int64_t handle,
                 int64_t tag, int64_t kind, int64_t length, int64_t rows, int64_t result_bytes,
                 ffi::Span<const int64_t> axes, ffi::Span<const int64_t> legs,
                 ffi::Span<const int64_t> chunks) {
  const auto engine = torus::find_engine(handle);
  std::vector<Array> arrays;
  uint32_t type = UINT32_MAX;
  int64_t bytes = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto x = inputs.get<ffi::AnyBuffer>(i);
    if (!x.has_value()) return x.error();
    type = type_of(x->element_type(), uint32_t(kind));
    arrays.push_back(array_of(*x));
    bytes += arrays.back().second;
  }
  if (!engine || type == UINT32_MAX) return refusal(engine != nullptr);
  const auto one = std::make_shared<Started>(bytes, kind == torus::ALL_REDUCE ? 0 : result_bytes);
  torus::pack(arrays, rows, one->source(), false);
  torus::Request request =
      torus::make_request(uint64_t(tag), uint32_t(kind), type, length, axes, legs, chunks);
  request.source = one->source();
  request.target = one->target();
  request.started = true;
  request.done = [one](const std::string* failure) { one->end(failure); };
  uint64_t number;
  {
    const std::lock_guard lock(all().mutex);
    number = ++all().last;
    all().started[number] = one;
  }
  engine->submit(std::move(request));
  std::memcpy(ticket->untyped_data(), &number, sizeof number);
  return ffi::Error::Success();
}

// Gives the results of what was started; zeros of a ticket of zero. `after`: what must be there
// before this waits.
ffi::Future done(ffi::BufferR1<ffi::U32> ticket, ffi::BufferR1<ffi::U32> after,
                 ffi::RemainingRets outputs, int64_t rows) {
  (void)after;
  ffi::Promise promise;
  ffi::Future future(promise);
  std::vector<Array> arrays;
  for (size_t i = 0; i < outputs.size(); ++i)
    arrays.push_back(array_of(**outputs.get<ffi::AnyBuffer>(i)));
  uint64_t number;
  std::memcpy(&number, ticket.untyped_data(), sizeof number);
  std::shared_ptr<Started> one;
  if (number) {
    const std::lock_guard lock(all().mutex);
    const auto found = all().started.find(number);
    if (found != all().started.end()) {
      one = std::move(found->second);
      all().started.erase(found);
    }
  }
  if (number && !one) {
    promise.SetError(ffi::Error::Internal("the result of a sum was asked for twice"));
    return future;
  }
  if (!number) {
    for (const auto& [data, bytes] : arrays) std::memset(data, 0, size_t(bytes));
    promise.SetAvailable();
    return future;
  }
  one->when_ended([one, arrays, rows, promise](const std::string& failure) mutable {
    if (!failure.empty())
      return promise.SetError(ffi::Error(ffi::ErrorCode::kAborted, failure));
    torus::pack(arrays, rows, one->target(), true);
    one->moments.given = Started::now();
    {
      const std::lock_guard lock(all().mutex);
      if (all().recording) all().recorded.push_back(one->moments);
    }
    promise.SetAvailable();
  });
  return future;
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_torus, call,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("torus")
                                  .Attr<int64_t>("tag")
                                  .Attr<int64_t>("kind")
                                  .Attr<int64_t>("length")
                                  .Attr<ffi::Span<const int64_t>>("axes")
                                  .Attr<ffi::Span<const int64_t>>("legs")
                                  .Attr<ffi::Span<const int64_t>>("chunks"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_torus_start, start,
                              ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .Ret<ffi::BufferR1<ffi::U32>>()
                                  .Attr<int64_t>("torus")
                                  .Attr<int64_t>("tag")
                                  .Attr<int64_t>("kind")
                                  .Attr<int64_t>("length")
                                  .Attr<int64_t>("rows")
                                  .Attr<int64_t>("result_bytes")
                                  .Attr<ffi::Span<const int64_t>>("axes")
                                  .Attr<ffi::Span<const int64_t>>("legs")
                                  .Attr<ffi::Span<const int64_t>>("chunks"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_torus_done, done,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::BufferR1<ffi::U32>>()
                                  .Arg<ffi::BufferR1<ffi::U32>>()
                                  .RemainingRets()
                                  .Attr<int64_t>("rows"));

extern "C" {

// Begins to note when started collectives travel, or ends it and forgets what was noted.
void fugaku_torus_record(int on) {
  const std::lock_guard lock(all().mutex);
  all().recording = on;
  all().recorded.clear();
}

// Copies what was noted, five numbers each as in `Moments`, and returns how many there are.
int64_t fugaku_torus_recorded(double* target, int64_t capacity) {
  const std::lock_guard lock(all().mutex);
  const auto& noted = all().recorded;
  for (size_t i = 0; i < noted.size() && int64_t(i) < capacity; ++i)
    std::memcpy(target + 5 * i, &noted[i], sizeof noted[i]);
  return int64_t(noted.size());
}

}  // extern "C"
