// The steps by which a chunk goes round the axes of its route.
#pragma once

#include <cstdint>
#include <vector>

namespace torus {

// An axis as a process sees it.
struct Axis {
  int64_t size, coordinate;
  int next, previous;  // links to the neighbours; the same one where the axis has two devices
};

// One axis of a route.
struct Leg {
  int axis;
  bool backward;
};

// In each step a process sends some blocks of the chunk along one link and receives others along
// another, which it adds to its own (`gather`: which take their place).
struct Step {
  bool gather;
  int to, from;  // links
  int64_t send_first, send_end, receive_first, receive_end;
};

// A route's steps in one process. Its blocks are numbered by the coordinates of those who end up
// with their sum, the first axis of the route the outermost.
struct Steps {
  std::vector<Step> steps;
  int64_t scatters = 0;  // steps of the reduce-scatter, which come first
  int64_t blocks = 1;
  int64_t own = 0;  // the block of which this process has the sum after them
};

// Ring i of a reduce-scatter: a block starts at the device after its owner and is sent on n - 1
// times, each device adding its part, so that the order of a sum depends on the mesh alone.
inline Steps make_steps(const std::vector<Axis>& axes, const std::vector<Leg>& legs, bool scatter,
                        bool gather) {
  Steps made;
  for (const Leg& leg : legs) made.blocks *= axes[leg.axis].size;
  const auto ring = [&](const Leg& leg, int64_t first, int64_t size, bool gathers) {
    const Axis& axis = axes[leg.axis];
    const int64_t n = axis.size, way = leg.backward ? -1 : 1;
    const auto block = [&](int64_t away) {
      return first + ((axis.coordinate - way * away) % n + n) % n * size;
    };
    for (int64_t t = 0; t < n - 1; ++t) {
      const int64_t send = block(gathers ? t : t + 1), receive = block(gathers ? t + 1 : t + 2);
      made.steps.push_back({gathers, leg.backward ? axis.previous : axis.next,
                            leg.backward ? axis.next : axis.previous, send, send + size, receive,
                            receive + size});
    }
  };
  struct Range {
    int64_t first, size;
  };
  std::vector<Range> ranges;
  int64_t first = 0, size = made.blocks;
  for (const Leg& leg : legs) {
    size /= axes[leg.axis].size;
    ranges.push_back({first, size});
    if (scatter) ring(leg, first, size, false);
    first += axes[leg.axis].coordinate * size;
  }
  made.own = first;
  made.scatters = int64_t(made.steps.size());
  if (gather)
    for (size_t i = legs.size(); i-- > 0;) ring(legs[i], ranges[i].first, ranges[i].size, true);
  return made;
}

}  // namespace torus
