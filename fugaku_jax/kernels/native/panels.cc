// The custom call `fugaku_panels`: rows times a matrix that lies in panels of columns, plus a bias.
//
// Generation multiplies few rows by all weights for every token, and so is bound by reading them. In
// panels they are read from end to end, each once as long as a panel fits the second cache.
//
// Every sum is taken in the order of the depth, so a row's result does not depend on the other rows,
// nor on the threads.
#include <algorithm>
#include <type_traits>

#include "dtypes.h"
#include "pool.h"
#include "scratch.h"
#include "vector.h"

namespace {

namespace ffi = xla::ffi;
using vector::Float;
using vector::LANES;

constexpr int64_t WIDTH = 64;  // columns of a panel; of every instruction set, as Python packs them
// A tile's sums, as many as in matmul.h but of an even number of registers, which divides a panel.
constexpr int64_t VECTORS = isa::TILE_VECTORS + isa::TILE_VECTORS % 2;
constexpr int64_t ROWS = isa::TILE_ROWS * isa::TILE_VECTORS / VECTORS;
static_assert(WIDTH % (VECTORS * LANES) == 0);

// Weights that are multiplied by all rows before the next ones are: they stay in the first cache,
// while those AHEAD of them come from memory.
constexpr int64_t AT_ONCE = 16 * 1024, AHEAD = 8 * 1024;

// Whether rows and weights are multiplied two of the depth at once; then rows stay as they are, and
// are made fp32 else.
template <class T>
constexpr bool PAIRED = vector::PAIRS && std::is_same_v<T, vector::Bfloat16>;
template <class T>
using Row = std::conditional_t<PAIRED<T>, vector::Bfloat16, float>;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A matrix in panels, `[panels][depth][WIDTH]`.
template <class T>
struct Panels {
  const T* data;
  int64_t columns, depth;
  const float* bias;  // of each column, or null
};

// partial[i][j] += the sum over `steps` s of x[i][s] w[s][j], for ROWS rows and some columns. With
// FETCH it asks for the weights that come AHEAD bytes after these.
template <int64_t ROWS, bool FETCH, class T>
[[gnu::always_inline]] inline void add_tile(const Row<T>* x, int64_t stride, const T* w,
                                            int64_t steps, float* partial) {
  Float sums[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int64_t j = 0; j < VECTORS; ++j) sums[i][j] = vector::load(partial + i * WIDTH + j * LANES);
  constexpr int64_t DEEP = PAIRED<T> ? 2 : 1;
  for (int64_t s = 0; s < steps; s += DEEP, w += DEEP * WIDTH) {
    if constexpr (FETCH)
      for (uint64_t byte = 0; byte < DEEP * WIDTH * sizeof(T); byte += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(w) + AHEAD + byte, 0, 2);
    if constexpr (PAIRED<T>) {
      const bool whole = s + 1 < steps;  // else the last one's partner is 0
      vector::Bits right[VECTORS];
#pragma GCC unroll 4
      for (int64_t j = 0; j < VECTORS; ++j) {
        right[j] = isa::widen(w + j * LANES);
        if (whole) right[j] |= isa::widen(w + WIDTH + j * LANES) << 16;
      }
#pragma GCC unroll 8
      for (int64_t i = 0; i < ROWS; ++i) {
        const vector::Bfloat16* from = x + i * stride + s;
        const uint32_t pair = from[0].bits | (whole ? uint32_t(from[1].bits) << 16 : 0);
        const vector::Bits left = pair - vector::Bits{};
#pragma GCC unroll 4
        for (int64_t j = 0; j < VECTORS; ++j)
          sums[i][j] = vector::add_pairs(sums[i][j], left, right[j]);
      }
    } else {
      Float right[VECTORS];
#pragma GCC unroll 4
      for (int64_t j = 0; j < VECTORS; ++j) right[j] = vector::load(w + j * LANES);
#pragma GCC unroll 8
      for (int64_t i = 0; i < ROWS; ++i) {
        const Float left = vector::broadcast(x + i * stride + s);
#pragma GCC unroll 4
        for (int64_t j = 0; j < VECTORS; ++j) sums[i][j] += left * right[j];
      }
    }
  }
#pragma GCC unroll 8
  for (int64_t i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int64_t j = 0; j < VECTORS; ++j) vector::store(sums[i][j], partial + i * WIDTH + j * LANES);
}

// Does so for up to MOST rows and all columns of a panel.
template <int64_t MOST, bool FETCH, class T>
void add_rows(int64_t rows, const Row<T>* x, int64_t stride, const T* w, int64_t steps,
              float* partial) {
  if constexpr (MOST > 1)
    if (rows < MOST) return add_rows<MOST - 1, FETCH>(rows, x, stride, w, steps, partial);
  add_tile<MOST, FETCH>(x, stride, w, steps, partial);
  for (int64_t j = VECTORS * LANES; j < WIDTH; j += VECTORS * LANES)
    add_tile<MOST, false>(x, stride, w + j, steps, partial + j);
}

// Multiplies `rows` rows by a panel.
template <class T, class Out>
void multiply(const Row<T>* x, int64_t rows, const Panels<T>& w, int64_t panel, Out* y) {
  constexpr int64_t STEPS = AT_ONCE / (WIDTH * sizeof(T));
  float* partial = scratch<struct Partial, float>(rows * WIDTH);
  std::fill_n(partial, rows * WIDTH, 0.0f);
  const T* data = w.data + panel * w.depth * WIDTH;
  const int64_t height = divide_up(rows, divide_up(rows, ROWS));  // equal tiles
  for (int64_t k = 0; k < w.depth; k += STEPS) {
    const int64_t steps = std::min(STEPS, w.depth - k);
    add_rows<ROWS, true>(height, x + k, w.depth, data + k * WIDTH, steps, partial);
    for (int64_t i = height; i < rows; i += height)
      add_rows<ROWS, false>(std::min(height, rows - i), x + i * w.depth + k, w.depth,
                            data + k * WIDTH, steps, partial + i * WIDTH);
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < WIDTH; j += LANES) {
      const int64_t column = panel * WIDTH + j, some = std::min(LANES, w.columns - column);
      if (some <= 0) break;
      Float sum = vector::load(partial + i * WIDTH + j);
      if (w.bias) sum += vector::load_some(w.bias + column, some);
      vector::store_some(sum, y + i * w.columns + column, some);
    }
}

template <class T, class Out>
void run_all(ffi::ThreadPool threads, const T* x, int64_t rows, const Panels<T>& w, Out* y) {
  // As many rows at once as the second cache holds.
  const int64_t fitting = isa::CACHE_BYTES / (sizeof(float) * std::max<int64_t>(1, w.depth));
  const int64_t most = std::max(8 * ROWS, fitting / ROWS * ROWS);
  for (int64_t row = 0; row < rows; row += most, x += most * w.depth, y += most * w.columns) {
    const int64_t here = std::min(most, rows - row), count = here * w.depth;
    const Row<T>* left;
    if constexpr (PAIRED<T>) {
      left = x;
    } else {
      float* wide = scratch<struct Wide, float>(count);
      for (int64_t i = 0; i < count; i += LANES) {
        const int64_t some = std::min(LANES, count - i);
        vector::store_some(vector::load_some(x + i, some), wide + i, some);
      }
      left = wide;
    }
    pool::parallel_for(threads, divide_up(w.columns, WIDTH),
                       [&](int64_t panel) { multiply(left, here, w, panel, y); });
  }
}

// Arguments: rows `[..., depth]`; the panels of several layers, `[layers, panels, depth, WIDTH]`, in
// the same type; an int32, the layer; if `add_bias`, the layers' biases `[layers, columns]` in fp32.
// Result: rows of `columns` numbers, in that type or in fp32.
ffi::Error run(ffi::ThreadPool threads, ffi::AnyBuffer x, ffi::AnyBuffer panels,
               ffi::BufferR0<ffi::S32> layer, ffi::RemainingArgs rest,
               ffi::Result<ffi::AnyBuffer> y, int64_t rows, int64_t columns, bool add_bias) {
  const auto sizes = panels.dimensions();
  if (rows < 0 || columns < 0 || sizes.size() != 4 || sizes[3] != WIDTH ||
      sizes[1] != divide_up(columns, WIDTH) || int64_t(x.element_count()) != rows * sizes[2] ||
      int64_t(y->element_count()) != rows * columns ||
      x.element_type() != panels.element_type() || rest.size() != size_t(add_bias))
    return ffi::Error::InvalidArgument("panels: the operands and the result are not of these sizes");
  const int64_t depth = sizes[2], number = *layer.typed_data();
  if (number < 0 || number >= sizes[0])
    return ffi::Error::InvalidArgument("panels: there is no such layer");
  const float* bias = nullptr;
  if (add_bias) {
    const auto given = rest.get<ffi::Buffer<ffi::F32>>(0);
    if (!given || int64_t(given->element_count()) != sizes[0] * columns)
      return ffi::Error::InvalidArgument("panels: biases must be an fp32 number for each column");
    bias = given->typed_data() + number * columns;
  }
  return dtypes::dispatch("panels", x.element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Panels<T> w{dtypes::data<T>(panels) + number * sizes[1] * depth * WIDTH, columns, depth,
                      bias};
    if (y->element_type() == ffi::F32)
      run_all(threads, dtypes::data<T>(x), rows, w, dtypes::data<float>(*y));
    else if (y->element_type() == x.element_type())
      run_all(threads, dtypes::data<T>(x), rows, w, dtypes::data<T>(*y));
    else
      return ffi::Error::InvalidArgument("panels: the result must be float32 or like the rows");
    return ffi::Error::Success();
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_panels, run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::BufferR0<ffi::S32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("rows")
                                  .Attr<int64_t>("columns")
                                  .Attr<bool>("add_bias"));
