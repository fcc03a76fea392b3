// Messages over the machine's own MPI, by the functions of `shim/mpi_shim.c`.
//
// A message is two: its header, and then its bytes, which MPI keeps in that order. A process that
// ends is MPI's to notice: its `mpirun` ends the others.
#pragma once

#include <dlfcn.h>
#include <time.h>

#include <atomic>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "transport.h"

namespace torus {

class Mpi final : public Transport {
 public:
  struct Peer {
    int rank, send_tag, receive_tag;
  };

  // Throws if the shim cannot be loaded, or MPI refuses. All processes make one together.
  Mpi(const std::string& shim, const std::vector<Peer>& peers) : links_(peers.size()) {
    void* library = dlopen(shim.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error(dlerror());
    load(library, "fugaku_mpi_open", open_);
    load(library, "fugaku_mpi_send", send_);
    load(library, "fugaku_mpi_receive", receive_);
    load(library, "fugaku_mpi_test", test_);
    load(library, "fugaku_mpi_cancel", cancel_);
    if (open_(&room_)) throw std::runtime_error("MPI makes no communicator");
    for (size_t i = 0; i < links_.size(); ++i) {
      links_[i].peer = peers[i];
      listen(links_[i]);
    }
  }

  ~Mpi() override {
    for (Link& link : links_)
      if (link.receiving) cancel_(link.receiving);
  }

  int depth() const override { return DEPTH; }

  void send(int number, const Header& header, const std::byte* payload) override {
    Link& link = links_[size_t(number)];
    auto out = std::make_unique<Outgoing>();
    out->header = header;
    start_send(link, &out->header, sizeof(Header), out->of_header);
    if (header.bytes) start_send(link, payload, header.bytes, out->of_payload);
    link.outgoing.push_back(std::move(out));
  }

  void progress(Receiver& receiver, bool wait) override {
    for (long pause = 0;;) {
      bool moved = false;
      for (size_t i = 0; i < links_.size(); ++i) moved |= progress_one(receiver, int(i));
      if (moved || !wait || awake_.exchange(false)) return;
      // MPI tells nobody that something came, so one has to ask: often at first, then less so.
      if (++pause > SPINS) {
        const timespec nap{0, pause > LONG_SPINS ? 500'000 : 20'000};
        nanosleep(&nap, nullptr);
      }
      if (pause > LONGEST_WAIT) return;
    }
  }

  void wake() override { awake_.store(true); }

 private:
  static constexpr int DEPTH = 4;
  static constexpr long SPINS = 200, LONG_SPINS = 2000, LONGEST_WAIT = 4000;

  struct Outgoing {
    Header header;
    void *of_header = nullptr, *of_payload = nullptr;
  };

  struct Link {
    Peer peer;
    std::deque<std::unique_ptr<Outgoing>> outgoing;
    Header incoming;
    void* receiving = nullptr;
    bool in_payload = false, lost = false;
  };

  template <class Function>
  static void load(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (!function) throw std::runtime_error(std::string(name) + " is missing");
  }

  void start_send(Link& link, const void* data, size_t bytes, void*& request) {
    if (send_(room_, data, int(bytes), link.peer.rank, link.peer.send_tag, &request))
      request = nullptr;
  }

  void listen(Link& link) {
    link.in_payload = false;
    receive_(room_, &link.incoming, int(sizeof(Header)), link.peer.rank, link.peer.receive_tag,
             &link.receiving);
  }

  bool ended(void*& request) {
    if (!request) return true;
    int done = 0;
    test_(request, &done);
    if (done) request = nullptr;
    return done != 0;
  }

  // Returns whether anything was done.
  bool progress_one(Receiver& receiver, int number) {
    Link& link = links_[size_t(number)];
    bool moved = false;
    while (!link.outgoing.empty()) {
      Outgoing& out = *link.outgoing.front();
      const bool header = ended(out.of_header), payload = ended(out.of_payload);
      if (!header || !payload) break;
      link.outgoing.pop_front();
      receiver.sent(number);
      moved = true;
    }
    while (!link.lost && ended(link.receiving)) {
      moved = true;
      if (!link.in_payload && link.incoming.magic != Header::MAGIC) {
        link.lost = true;
        receiver.lost(number, "what it says is no message of a sum");
        return moved;
      }
      if (!link.in_payload && link.incoming.bytes) {
        std::byte* target = receiver.place(number, link.incoming);
        link.in_payload = true;
        receive_(room_, target, int(link.incoming.bytes), link.peer.rank, link.peer.receive_tag,
                 &link.receiving);
        continue;
      }
      if (!link.in_payload) receiver.place(number, link.incoming);
      const Header header = link.incoming;
      receiver.arrived(number, header);
      listen(link);
    }
    return moved;
  }

  int (*open_)(void**) = nullptr;
  int (*send_)(void*, const void*, int, int, int, void**) = nullptr;
  int (*receive_)(void*, void*, int, int, int, void**) = nullptr;
  int (*test_)(void*, int*) = nullptr;
  void (*cancel_)(void*) = nullptr;
  void* room_ = nullptr;
  std::vector<Link> links_;
  std::atomic<bool> awake_{false};
};

}  // namespace torus
