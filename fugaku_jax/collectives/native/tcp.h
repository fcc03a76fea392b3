// Messages over TCP: one connection to each neighbour, used in both directions.
#pragma once

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

#include "transport.h"

namespace torus {

class Tcp final : public Transport {
 public:
  // Takes connected sockets over; a link is known by its place among them.
  explicit Tcp(const std::vector<int>& descriptors) : links_(descriptors.size()) {
    for (size_t i = 0; i < links_.size(); ++i) {
      links_[i].descriptor = descriptors[i];
      configure(descriptors[i]);
      watch(EPOLL_CTL_ADD, int(i), EPOLLIN);
    }
    epoll_event event{.events = EPOLLIN, .data = {.u64 = uint64_t(WAKE)}};
    epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event);
  }

  ~Tcp() override {
    for (const Link& link : links_) close(link.descriptor);
    close(epoll_);
    close(wake_);
  }

  int depth() const override { return 1; }

  void send(int link, const Header& header, const std::byte* payload) override {
    links_[link].outgoing = {header, payload, 0, true};
    fresh_.push_back(link);
  }

  void progress(Receiver& receiver, bool wait) override {
    while (!fresh_.empty()) {
      const int link = fresh_.back();
      fresh_.pop_back();
      write(receiver, link);
    }
    constexpr int MOST = 32;
    epoll_event events[MOST];
    const int ready = epoll_wait(epoll_, events, MOST, wait ? LONGEST_WAIT : 0);
    for (int i = 0; i < ready; ++i) {
      if (events[i].data.u64 == uint64_t(WAKE)) {
        uint64_t count;
        [[maybe_unused]] const auto read_ = ::read(wake_, &count, sizeof count);
        continue;
      }
      const int link = int(events[i].data.u64);
      if (events[i].events & EPOLLOUT) write(receiver, link);
      if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read(receiver, link);
    }
  }

  void wake() override {
    const uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(wake_, &one, sizeof one);
  }

 private:
  static constexpr int WAKE = -1;
  static constexpr int LONGEST_WAIT = 1000;           // ms
  static constexpr size_t AT_ONCE = 1 << 20;          // bytes of one link, then it is another's turn
  static constexpr int UNSENT = 1 << 16;              // bytes that the kernel keeps for later
  static constexpr unsigned UNHEARD_OF = 120 * 1000;  // ms after which a host is out of reach

  static constexpr int LEAST_BUFFER = 1 << 15, MOST_BUFFER = 1 << 22;  // bytes on their way
  static constexpr double BUFFERED_SECONDS = 0.02;
  static constexpr size_t FITTED_EVERY = 1 << 18;  // bytes

  using Clock = std::chrono::steady_clock;

  struct Outgoing {
    Header header;
    const std::byte* payload;
    size_t done;  // bytes, of the header too
    bool busy;
  };

  struct Link {
    int descriptor = -1;
    bool lost = false, waits_to_write = false;
    Outgoing outgoing{};
    Header incoming;
    std::byte* target = nullptr;
    size_t received = 0;  // bytes, of the header too
    size_t sent = 0, got = 0;  // bytes since the buffer was fitted
    Clock::time_point fitted = Clock::now();
  };

  static void configure(int descriptor) {
    const int one = 1;
    setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &LEAST_BUFFER, sizeof LEAST_BUFFER);
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    // What waits in the kernel can be overtaken by nothing, so little waits there.
    setsockopt(descriptor, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &UNSENT, sizeof UNSENT);
    setsockopt(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, &UNHEARD_OF, sizeof UNHEARD_OF);
  }

  // Lets no more wait in the network than keeps it busy: by the rate at which the connection gets
  // on. What waits there delays all that comes after, up to seconds on a slow link. As both ends
  // send, and what confirms a message waits behind others, each way has the share of its link that
  // its buffer has of the other's (Zhang, Shenker and Clark, "Observations on the dynamics of a
  // congestion control algorithm: the effects of two-way traffic", 1991). So both ends go by the
  // faster way, and by powers of two.
  static void fit_buffer(Link& link) {
    const auto now = Clock::now();
    const double taken = std::chrono::duration<double>(now - link.fitted).count();
    const double rate = double(std::max(link.sent, link.got)) / std::max(taken, 1e-6);
    link.sent = link.got = 0;
    link.fitted = now;
    tcp_info info{};
    socklen_t size = sizeof info;
    if (getsockopt(link.descriptor, IPPROTO_TCP, TCP_INFO, &info, &size)) return;
    const double bytes = rate * std::max(BUFFERED_SECONDS, 2e-6 * info.tcpi_min_rtt);
    const auto wanted = std::clamp(bytes, double(LEAST_BUFFER), double(MOST_BUFFER));
    const int buffer = int(std::bit_ceil(unsigned(wanted)));
    setsockopt(link.descriptor, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
  }

  void watch(int operation, int link, uint32_t events) {
    epoll_event event{.events = events, .data = {.u64 = uint64_t(link)}};
    epoll_ctl(epoll_, operation, links_[link].descriptor, &event);
  }

  void lose(Receiver& receiver, int number, const std::string& why) {
    Link& link = links_[number];
    if (link.lost) return;
    link.lost = true;
    epoll_ctl(epoll_, EPOLL_CTL_DEL, link.descriptor, nullptr);
    receiver.lost(number, why);
  }

  // Writes messages, one after the other, until the kernel takes no more.
  void write(Receiver& receiver, int number) {
    Link& link = links_[number];
    while (link.outgoing.busy && !link.lost) {
      Outgoing& out = link.outgoing;
      const size_t whole = sizeof(Header) + out.header.bytes;
      iovec parts[2];
      int count = 0;
      if (out.done < sizeof(Header)) {
        parts[count++] = {reinterpret_cast<char*>(&out.header) + out.done,
                          sizeof(Header) - out.done};
      }
      const size_t begun = out.done > sizeof(Header) ? out.done - sizeof(Header) : 0;
      if (begun < out.header.bytes) {
        parts[count++] = {const_cast<std::byte*>(out.payload) + begun, out.header.bytes - begun};
      }
      msghdr message{};
      message.msg_iov = parts;
      message.msg_iovlen = size_t(count);
      const ssize_t written = sendmsg(link.descriptor, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
      if (written < 0) {
        const std::string why = std::strerror(errno);
        read(receiver, number);  // what the other said before it went
        return lose(receiver, number, why);
      }
      out.done += size_t(written);
      link.sent += size_t(written);
      if (link.sent > FITTED_EVERY) fit_buffer(link);
      if (out.done < whole) continue;
      out.busy = false;
      receiver.sent(number);  // gives the next one, perhaps, which need not be noted as fresh
    }
    if (link.lost || link.waits_to_write == link.outgoing.busy) return;
    link.waits_to_write = link.outgoing.busy;
    watch(EPOLL_CTL_MOD, number, link.waits_to_write ? EPOLLIN | EPOLLOUT : EPOLLIN);
  }

  void read(Receiver& receiver, int number) {
    Link& link = links_[number];
    for (size_t taken = 0; taken < AT_ONCE && !link.lost;) {
      const bool in_header = link.received < sizeof(Header);
      const size_t before = in_header ? link.received : link.received - sizeof(Header);
      std::byte* target = in_header ? reinterpret_cast<std::byte*>(&link.incoming) : link.target;
      const size_t size = in_header ? sizeof(Header) : link.incoming.bytes;
      const ssize_t got = recv(link.descriptor, target + before, size - before, MSG_DONTWAIT);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
      if (got <= 0) return lose(receiver, number, got ? std::strerror(errno) : "");
      taken += size_t(got);
      link.got += size_t(got);
      link.received += size_t(got);
      if (link.received == sizeof(Header)) {
        if (link.incoming.magic != Header::MAGIC)
          return lose(receiver, number, "what it says is no message of a sum");
        link.target = receiver.place(number, link.incoming);
      }
      if (link.received == sizeof(Header) + link.incoming.bytes) {
        link.received = 0;
        receiver.arrived(number, link.incoming);
      }
    }
  }

  std::vector<Link> links_;
  std::vector<int> fresh_;  // links to which a message was given since
  const int epoll_ = epoll_create1(EPOLL_CLOEXEC);
  const int wake_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
};

}  // namespace torus
