// What the machine can do at most, on all threads at once: multiply-adds on registers alone, and
// streams through memory.
#include "dtypes.h"
#include "elementwise.h"
#include "pool.h"
#include "tile.h"
#include "vector.h"

namespace {

namespace ffi = xla::ffi;
using vector::Float;

constexpr int SUMS = isa::TILE_ROWS * isa::TILE_VECTORS;  // independent, so that none waits

template <class Register, class Element>
Register filled(Element value) {
  Register all;
  for (size_t i = 0; i < sizeof all / sizeof value; ++i) all[i] = value;
  return all;
}

// Does `rounds` multiply-adds on each of SUMS registers, as a product of this kind does them.
template <class Kind>
float multiply_and_add(int32_t rounds) {
  using Register = typename Kind::Register;
  using Sum = typename Kind::Sum;
  using Element = std::remove_cvref_t<decltype(Sum{}[0])>;
  Sum sum[SUMS];
#pragma GCC unroll 32
  for (int i = 0; i < SUMS; ++i) sum[i] = filled<Sum>(Element(i + 3));  // at 2 nothing would change
  for (int32_t round = 0; round < rounds; ++round) {
    asm volatile("" ::: "memory");  // not to be computed beforehand
#pragma GCC unroll 32
    for (int i = 0; i < SUMS; ++i) {
      if constexpr (std::is_same_v<Register, Sum>)  // a constant product would be computed once
        sum[i] = Kind::add(Sum{} + Element(1.0f), sum[i], Sum{} + Element(0.5f));
      else
        sum[i] = Kind::add(sum[i], Register{}, Register{});
    }
  }
  Sum last{};  // an array whose elements are asked for by a variable would stay in memory
#pragma GCC unroll 32
  for (int i = 0; i < SUMS; ++i) last += sum[i];
  float total = 0;
  for (size_t i = 0; i < sizeof(Sum) / sizeof(Element); ++i) total += float(last[i]);
  return total;
}

// Does so on the four tiles of sums that AMX has room for.
template <>
float multiply_and_add<tile::Tiles>(int32_t rounds) {
  const amx::Session session;
  constexpr float ZEROS[amx::ROWS * amx::BYTES / sizeof(float)]{};
  amx::load<4>(ZEROS, amx::BYTES);
  amx::load<5>(ZEROS, amx::BYTES);
  amx::load<6>(ZEROS, amx::BYTES);
  amx::load<7>(ZEROS, amx::BYTES);
  for (int32_t round = 0; round < rounds; ++round) {
    amx::add_bf16<0, 4, 6>();
    amx::add_bf16<1, 4, 7>();
    amx::add_bf16<2, 5, 6>();
    amx::add_bf16<3, 5, 7>();
  }
  return 0;
}

// The multiply-adds of a round.
template <class Kind>
constexpr int32_t A_ROUND = SUMS * tile::NUMBERS<Kind> * Kind::DEPTH;
template <>
constexpr int32_t A_ROUND<tile::Tiles> =
    tile::ROWS<tile::Tiles> * tile::PANEL<tile::Tiles> * tile::UNIT<tile::Tiles> * 2;

// Gives one number for each task; a task does `rounds` rounds, in the kind in which numbers of
// `like`'s type are multiplied. The second result tells how many multiply-adds of one element a
// round is, and how many bits the elements have.
ffi::Error fma_peak(ffi::ThreadPool threads, ffi::AnyBuffer like,
                    ffi::BufferR0<ffi::S32> rounds, ffi::Result<ffi::BufferR1<ffi::F32>> sums,
                    ffi::Result<ffi::BufferR1<ffi::S32>> round) {
  if (round->element_count() != 2)
    return ffi::Error::InvalidArgument("fma_peak: the second result must have two numbers");
  return dtypes::dispatch("fma_peak", like.element_type(), [&](auto type) {
    using Kind = tile::KindOf<typename decltype(type)::type>;
    round->typed_data()[0] = A_ROUND<Kind>;
    round->typed_data()[1] = 8 * sizeof(typename Kind::Number) / Kind::DEPTH;
    pool::parallel_for(threads, sums->element_count(), [&](int64_t task) {
      sums->typed_data()[task] = multiply_and_add<Kind>(*rounds.typed_data());
    });
    return ffi::Error::Success();
  });
}

constexpr char IN_PLACE[] = "in_place";
constexpr int64_t AHEAD = 512;  // elements, by which memory is asked for before its use

// a = b + 3 c past the caches (a line that is written whole need not be read before) or, in place,
// a = a + b + 3 c: all of one length and fp32, and the result is in a's memory.
ffi::Error stream(ffi::ThreadPool threads, ffi::BufferR1<ffi::F32> a, ffi::BufferR1<ffi::F32> b,
                  ffi::BufferR1<ffi::F32> c, ffi::Result<ffi::BufferR1<ffi::F32>> sum,
                  ffi::Attr<bool, IN_PLACE> in_place) {
  const size_t count = a.element_count();
  float *x = b.typed_data(), *y = c.typed_data(), *target = sum->typed_data();
  if (b.element_count() != count || c.element_count() != count ||
      sum->element_count() != count || target != a.typed_data() || count % vector::LANES != 0)
    return ffi::Error::InvalidArgument(
        "stream: there must be three arrays of whole registers, the first aliased to the result");
  elementwise::for_each_block(threads, count, [&](int64_t start, int64_t length) {
    for (int64_t i = start; i < start + length; i += vector::LANES) {
      __builtin_prefetch(x + i + AHEAD);
      __builtin_prefetch(y + i + AHEAD);
      const Float term = vector::load(x + i) + 3.0f * vector::load(y + i);
      if (*in_place) {
        __builtin_prefetch(target + i + AHEAD, 1);
        vector::store(vector::load(target + i) + term, target + i);
      } else {
        isa::stream(term, target + i);
      }
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_fma_peak, fma_peak);
XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_stream, stream);
