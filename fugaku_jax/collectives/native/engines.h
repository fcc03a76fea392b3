// The engines that Python has opened, by their handles, and what is asked of one.
#pragma once

#include <memory>

#include "engine.h"
#include "xla/ffi/api/ffi.h"

namespace torus {

// The engine of a handle; null if it is closed.
std::shared_ptr<Engine> find_engine(int64_t handle);

// `axes`: those of the torus in the order of the rows. `legs`: by route as many as there are axes,
// each twice the axis, plus one if it is walked backward. `chunks`: start, length and route of each.
inline Request make_request(uint64_t tag, uint32_t kind, uint32_t type, int64_t length,
                            xla::ffi::Span<const int64_t> axes, xla::ffi::Span<const int64_t> legs,
                            xla::ffi::Span<const int64_t> chunks) {
  Request request;
  request.tag = tag;
  request.kind = kind;
  request.type = type;
  request.length = length;
  request.axes.assign(axes.begin(), axes.end());
  for (size_t i = 0; i + axes.size() <= legs.size(); i += axes.size()) {
    auto& route = request.routes.emplace_back();
    for (size_t j = i; j < i + axes.size(); ++j)
      route.push_back({int(legs[j] / 2), legs[j] % 2 == 1});
  }
  for (size_t i = 0; i + 3 <= chunks.size(); i += 3)
    request.chunks.push_back({chunks[i], chunks[i + 1], chunks[i + 2]});
  return request;
}

}  // namespace torus
