// A collective that is under way in this process, and its chunks.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "numbers.h"
#include "ring.h"

namespace torus {

enum Kind : uint32_t { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER };

struct Chunk {
  int64_t start, length, route;
};

// What is to be done.
struct Request {
  uint64_t tag = 0;
  uint32_t kind = ALL_REDUCE, type = F32;
  const std::byte* source = nullptr;
  std::byte* target = nullptr;
  // Elements of the array of an all-reduce; of others, the columns of the matrix that has a row for
  // each device, in the order of `axes`.
  int64_t length = 0;
  std::vector<int> axes;
  std::vector<std::vector<Leg>> routes;
  std::vector<Chunk> chunks;
  bool started = false;  // it may be started again before it has ended
  // Is called once, with what went wrong, if anything did; not in the thread of the engine.
  std::function<void(const std::string* failure)> done;
};

struct Call;

// A chunk on its way.
struct Progress {
  Call* call;
  int64_t number;  // of the chunk
  size_t step = 0;
  int unsent = 0;
  std::unique_ptr<std::byte[]> sums, whole;  // `whole` where sums are of another type
};

struct Call {
  Request request;
  uint32_t round = 0;
  uint64_t place = 0;        // among all calls, in the order in which they began
  std::vector<Steps> steps;  // by route
  std::vector<std::unique_ptr<Progress>> chunks;
  size_t begun = 0, finished = 0;

  bool scatters() const { return request.kind != ALL_GATHER; }
  bool gathers() const { return request.kind != REDUCE_SCATTER; }
  uint32_t type() const { return request.kind << 8 | request.type; }
  bool rounds() const {
    return request.kind == ALL_REDUCE && size_of(request.type) != size_of_sum(request.type);
  }
  const Chunk& chunk(const Progress& p) const { return request.chunks[size_t(p.number)]; }
  const Steps& steps_of(const Progress& p) const { return steps[size_t(chunk(p).route)]; }
  bool at_end(const Progress& p) const { return p.step == steps_of(p).steps.size(); }
  const Step& step(const Progress& p) const { return steps_of(p).steps[p.step]; }

  // The bytes of some blocks of a chunk in a step of this sort.
  struct Part {
    std::byte* data;
    int64_t count, bytes;
  };
  Part part(const Progress& p, bool gather, int64_t first, int64_t end) const {
    const int64_t from = edge(p, first), count = edge(p, end) - from;
    const int64_t size = gather || !scatters() ? size_of(request.type) : size_of_sum(request.type);
    std::byte* data = gather && p.whole ? p.whole.get() : p.sums.get();
    return {data + from * size, count, count * size};
  }

  // Takes a chunk of the source.
  void copy_in(Progress& p) const {
    const Steps& way = steps_of(p);
    const auto [start, length, route] = chunk(p);
    const int64_t elements = edge(p, way.blocks), size = size_of(request.type);
    const int64_t wide = scatters() ? size_of_sum(request.type) : size;
    p.sums = std::make_unique_for_overwrite<std::byte[]>(size_t(elements * wide));
    if (rounds()) p.whole = std::make_unique_for_overwrite<std::byte[]>(size_t(elements * size));
    if (request.kind == ALL_REDUCE)
      return widen(request.type, request.source + start * size, p.sums.get(), length);
    if (request.kind == ALL_GATHER) {
      std::memcpy(p.sums.get() + way.own * length * size, request.source + start * size,
                  size_t(length * size));
      return;
    }
    for_each_row(route, [&, start = start, length = length](int64_t block, int64_t row) {
      widen(request.type, request.source + (row * request.length + start) * size,
            p.sums.get() + block * length * wide, length);
    });
  }

  // Between the reduce-scatter and the all-gather.
  void round_own(Progress& p) const {
    const int64_t own = steps_of(p).own;
    const Part sums = part(p, false, own, own + 1), whole = part(p, true, own, own + 1);
    torus::narrow(request.type, sums.data, whole.data, sums.count);
  }

  // Gives a chunk to the target.
  void copy_out(Progress& p) const {
    const auto [start, length, route] = chunk(p);
    const int64_t size = size_of(request.type), own = steps_of(p).own;
    std::byte* target = request.target + start * size;
    if (request.kind == ALL_REDUCE) {
      std::memcpy(target, p.whole ? p.whole.get() : p.sums.get(), size_t(length * size));
    } else if (request.kind == REDUCE_SCATTER) {
      narrow(request.type, part(p, false, own, own + 1).data, target, length);
    } else {
      for_each_row(route, [&, length = length](int64_t block, int64_t row) {
        std::memcpy(target + row * request.length * size, p.sums.get() + block * length * size,
                    size_t(length * size));
      });
    }
    p.sums.reset();
    p.whole.reset();
  }

  std::vector<Axis> sizes;  // all axes of the torus

 private:
  // The first element of a block. Blocks of an all-reduce are as equal as can be.
  int64_t edge(const Progress& p, int64_t block) const {
    const int64_t length = chunk(p).length;
    return request.kind == ALL_REDUCE ? length * block / steps_of(p).blocks : length * block;
  }

  // Tells for each block of a route which row of the matrix it is.
  template <class Body>
  void for_each_row(int64_t route, const Body& body) const {
    const std::vector<Leg>& legs = request.routes[size_t(route)];
    for (int64_t block = 0; block < steps[size_t(route)].blocks; ++block) {
      std::vector<int64_t> coordinates(sizes.size());
      int64_t rest = block, row = 0;
      for (size_t i = legs.size(); i-- > 0;) {
        const int64_t size = sizes[size_t(legs[i].axis)].size;
        coordinates[size_t(legs[i].axis)] = rest % size;
        rest /= size;
      }
      for (const int axis : request.axes)
        row = row * sizes[size_t(axis)].size + coordinates[size_t(axis)];
      body(block, row);
    }
  }
};

}  // namespace torus
