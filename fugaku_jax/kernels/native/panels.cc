// The custom call `fugaku_panels`: rows times a matrix that lies in panels of columns, plus a bias.
//
// Generation multiplies few rows by all weights for every token, and so is bound by reading them. In
// panels they are read from end to end, each once as long as a panel fits the second cache.
//
// Every sum is taken in the order of the depth, so a row's result does not depend on the other rows,
// nor on the threads. Rows that only fill the array are known when the call is made, not before.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "dtypes.h"
#include "panel_float.h"
#include "panel_int8.h"
#include "pool.h"

namespace {

namespace ffi = xla::ffi;
using panel::WIDTH;
using vector::Float;
using vector::LANES;

// A matrix in panels.
template <class W>
struct Panels {
  const W* data;
  int64_t columns, depth;
  const float* scales;  // what each column is multiplied by, `[panels][WIDTH]`, or null
  const float* bias;    // of each column, or null

  const W* at(int64_t number) const { return data + number * panel::filled<W>(depth) * WIDTH; }
};

template <class W, class T>
panel::Rows<W> take(const T* x, int64_t count, int64_t depth) {
  if constexpr (std::is_same_v<W, int8_t>)
    return panel::quantise_rows(x, count, depth);
  else
    return panel::take_rows<W>(x, count, depth);
}

// Multiplies rows by a panel.
template <class W, class Out>
void multiply(const panel::Rows<W>& x, const Panels<W>& w, int64_t number, Out* y) {
  float* sums = scratch<struct Sums, float>(panel::round_up(x.count, amx::ROWS) * WIDTH);
  panel::multiply(x, w.at(number), sums);
  for (int64_t i = 0; i < x.count; ++i)
    for (int64_t j = 0; j < WIDTH; j += LANES) {
      const int64_t column = number * WIDTH + j, some = std::min(LANES, w.columns - column);
      if (some <= 0) break;
      Float sum = vector::load(sums + i * WIDTH + j);
      if (w.scales) sum *= vector::load(w.scales + column);
      if (w.bias) sum += vector::load_some(w.bias + column, some);
      vector::store_some(sum, y + i * w.columns + column, some);
    }
}

template <class W, class T, class Out>
void run_all(ffi::ThreadPool threads, const T* x, int64_t rows, const Panels<W>& w, Out* y) {
  // As many rows at once as the second cache holds.
  constexpr int64_t UNIT = panel::TILES ? amx::ROWS : panel::TILE_ROWS;
  const int64_t fitting = isa::CACHE_BYTES / (sizeof(float) * std::max<int64_t>(1, w.depth));
  const int64_t most = std::max(8 * UNIT, fitting / UNIT * UNIT);
  for (int64_t row = 0; row < rows; row += most, x += most * w.depth, y += most * w.columns) {
    const panel::Rows<W> taken = take<W>(x, std::min(most, rows - row), w.depth);
    // Neighbours are read on from one to the next, but threads must find work up to the end.
    const int64_t panels = panel::divide_up(w.columns, WIDTH);
    const int64_t together = std::clamp<int64_t>(panels / (4 * threads.num_threads()), 1, 8);
    const auto several = [&](int64_t task) {
      const int64_t end = std::min(panels, (task + 1) * together);
      for (int64_t number = task * together; number < end; ++number) multiply(taken, w, number, y);
    };
    pool::parallel_for(threads, panel::divide_up(panels, together), several, true);
  }
}

template <class W, class T>
ffi::Error run_type(ffi::ThreadPool threads, ffi::AnyBuffer x, int64_t rows, const Panels<W>& w,
                    ffi::AnyBuffer y) {
  if (y.element_type() == ffi::F32)
    run_all(threads, dtypes::data<T>(x), rows, w, dtypes::data<float>(y));
  else if (y.element_type() == x.element_type())
    run_all(threads, dtypes::data<T>(x), rows, w, dtypes::data<T>(y));
  else
    return ffi::Error::InvalidArgument("panels: the result must be float32 or like the rows");
  return ffi::Error::Success();
}

// The fp32 numbers of a layer, of which an operand holds those of several, `size` each.
ffi::ErrorOr<const float*> of_layer(ffi::RemainingArgs rest, size_t index, int64_t layers,
                                    int64_t size, int64_t number) {
  const auto given = rest.get<ffi::Buffer<ffi::F32>>(index);
  if (!given || int64_t(given->element_count()) != layers * size)
    return ffi::Unexpected(ffi::Error::InvalidArgument(
        "panels: scales and biases must be an fp32 number for each column"));
  return given->typed_data() + number * size;
}

// Arguments: rows `[..., depth]`; the panels of several layers, `[layers, panels, depth / DEEP, WIDTH
// DEEP]` (panel.h), in the same type or int8; an int32, the layer; an int32, how many rows count; of
// int8, the layers' scales `[layers, panels, 1, WIDTH]` in fp32; if `add_bias`, their biases `[layers,
// columns]` in fp32. Result: rows of `columns` numbers, in the type of the rows or in fp32; 0 in those
// that do not count.
ffi::Error run(ffi::ThreadPool threads, ffi::AnyBuffer x, ffi::AnyBuffer panels,
               ffi::BufferR0<ffi::S32> layer, ffi::BufferR0<ffi::S32> count,
               ffi::RemainingArgs rest, ffi::Result<ffi::AnyBuffer> y, int64_t rows,
               int64_t columns, bool add_bias) {
  const auto sizes = panels.dimensions(), of_x = x.dimensions();
  const bool scaled = panels.element_type() == ffi::S8;
  const int64_t depth = of_x.size() ? of_x.back() : 0, number = *layer.typed_data();
  if (rows < 0 || columns < 0 || of_x.size() == 0 || sizes.size() != 4 ||
      sizes[1] != panel::divide_up(columns, WIDTH) ||
      int64_t(x.element_count()) != rows * depth ||
      int64_t(y->element_count()) != rows * columns ||
      (!scaled && x.element_type() != panels.element_type()) ||
      rest.size() != size_t(scaled) + size_t(add_bias))
    return ffi::Error::InvalidArgument("panels: the operands and the result are not of these sizes");
  if (number < 0 || number >= sizes[0])
    return ffi::Error::InvalidArgument("panels: there is no such layer");
  const float *scales = nullptr, *bias = nullptr;
  if (scaled) {
    const auto found = of_layer(rest, 0, sizes[0], sizes[1] * WIDTH, number);
    if (!found) return found.error();
    scales = *found;
  }
  if (add_bias) {
    const auto found = of_layer(rest, scaled, sizes[0], columns, number);
    if (!found) return found.error();
    bias = *found;
  }
  const int64_t counting = std::clamp<int64_t>(*count.typed_data(), 0, rows);
  const size_t width = rows ? y->size_bytes() / rows : 0;
  std::memset(static_cast<char*>(y->untyped_data()) + counting * width, 0, (rows - counting) * width);
  return dtypes::dispatch("panels", x.element_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const auto with = [&]<class W>(std::type_identity<W>) {
      constexpr int64_t DEEP = panel::DEEP<W>;
      const int64_t steps = panel::filled<W>(depth) / DEEP;
      if (sizes[2] != steps || sizes[3] != WIDTH * DEEP)
        return ffi::Error::InvalidArgument("panels: they are not as deep as the rows");
      const W* data = dtypes::data<W>(panels) + number * sizes[1] * steps * DEEP * WIDTH;
      return run_type<W, T>(threads, x, counting, {data, columns, depth, scales, bias}, *y);
    };
    return scaled ? with(std::type_identity<int8_t>{}) : with(type);
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(fugaku_panels, run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::BufferR0<ffi::S32>>()
                                  .Arg<ffi::BufferR0<ffi::S32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("rows")
                                  .Attr<int64_t>("columns")
                                  .Attr<bool>("add_bias"));
