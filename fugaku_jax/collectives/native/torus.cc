// What Python sees of the engine: connections that it opens and closes, and calls without XLA.
#include <algorithm>
#include <future>
#include <map>
#include <sstream>

#include "engines.h"
#include "mpi.h"
#include "tcp.h"

namespace {

using torus::Engine;

struct Open {
  std::mutex mutex;
  std::map<int64_t, std::shared_ptr<Engine>> engines;
  int64_t next = 1;
};

// Never destroyed: the threads of engines outlive the program's end.
Open& open() {
  static Open& all = *new Open;
  return all;
}

std::vector<torus::Axis> make_axes(int64_t axes, const int64_t* sizes, const int64_t* coordinates,
                                   const int64_t* next, const int64_t* previous) {
  std::vector<torus::Axis> all;
  for (int64_t i = 0; i < axes; ++i)
    all.push_back({sizes[i], coordinates[i], int(next[i]), int(previous[i])});
  return all;
}

int64_t keep(std::vector<torus::Axis> axes, std::unique_ptr<torus::Transport> transport,
             int64_t links, const char* names) {
  std::istringstream lines(names);
  std::string own;
  std::getline(lines, own);
  std::vector<std::string> others(static_cast<size_t>(links));
  for (std::string& name : others) std::getline(lines, name);
  auto engine = std::make_shared<Engine>(std::move(axes), std::move(transport), own, others);
  const std::lock_guard lock(open().mutex);
  open().engines[open().next] = std::move(engine);
  return open().next++;
}

void tell(const std::string& text, char* target, int64_t size) {
  const size_t kept = std::min(text.size(), size_t(size - 1));
  std::copy_n(text.begin(), kept, target);
  target[kept] = 0;
}

}  // namespace

std::shared_ptr<Engine> torus::find_engine(int64_t handle) {
  const std::lock_guard lock(open().mutex);
  const auto found = open().engines.find(handle);
  return found == open().engines.end() ? nullptr : found->second;
}

extern "C" {

// Makes an engine of connected sockets, which it takes over, and returns its handle.
//
// By axis: its size, this process's coordinate, and the places of its neighbours' sockets among
// `descriptors`, the next's and the previous one's. `names`: a line for this process, and one for
// the other end of each socket.
int64_t fugaku_torus_open(int64_t axes, const int64_t* sizes, const int64_t* coordinates,
                          const int64_t* next, const int64_t* previous, int64_t links,
                          const int* descriptors, const char* names) {
  auto transport = std::make_unique<torus::Tcp>(std::vector<int>(descriptors, descriptors + links));
  return keep(make_axes(axes, sizes, coordinates, next, previous), std::move(transport), links,
              names);
}

// Makes one whose messages go over MPI, by the library `shim`; all processes do so together. In
// place of sockets, by link: the neighbour's rank, and the tags of what goes there and comes from
// there. Returns 0 and what went wrong, if something did.
int64_t fugaku_torus_open_mpi(int64_t axes, const int64_t* sizes, const int64_t* coordinates,
                              const int64_t* next, const int64_t* previous, int64_t links,
                              const int64_t* peers, const char* names, const char* shim,
                              char* failure, int64_t failure_size) {
  std::vector<torus::Mpi::Peer> all;
  for (int64_t i = 0; i < links; ++i)
    all.push_back({int(peers[3 * i]), int(peers[3 * i + 1]), int(peers[3 * i + 2])});
  try {
    auto transport = std::make_unique<torus::Mpi>(shim, all);
    return keep(make_axes(axes, sizes, coordinates, next, previous), std::move(transport), links,
                names);
  } catch (const std::exception& error) {
    tell(error.what(), failure, failure_size);
    return 0;
  }
}

void fugaku_torus_close(int64_t handle) {
  std::shared_ptr<Engine> engine;
  const std::lock_guard lock(open().mutex);
  const auto found = open().engines.find(handle);
  if (found == open().engines.end()) return;
  engine = std::move(found->second);
  open().engines.erase(found);
}

// Carries out a collective without XLA and waits for it. Returns 0, or 1 and what went wrong.
int fugaku_torus_run(int64_t handle, int64_t tag, int64_t kind, int64_t type, const void* source,
                     void* target, int64_t length, int64_t n_axes, const int64_t* axes,
                     int64_t n_legs, const int64_t* legs, int64_t n_chunks, const int64_t* chunks,
                     char* failure, int64_t failure_size) {
  const auto engine = torus::find_engine(handle);
  torus::Request request = torus::make_request(
      uint64_t(tag), uint32_t(kind), uint32_t(type), length, {axes, size_t(n_axes)},
      {legs, size_t(n_legs)}, {chunks, size_t(n_chunks)});
  request.source = static_cast<const std::byte*>(source);
  request.target = static_cast<std::byte*>(target);
  std::promise<std::string> ended;
  request.done = [&](const std::string* text) { ended.set_value(text ? *text : ""); };
  engine->submit(std::move(request));
  const std::string text = ended.get_future().get();
  tell(text, failure, failure_size);
  return text.empty() ? 0 : 1;
}

}  // extern "C"
