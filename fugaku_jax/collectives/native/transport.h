// How messages get to neighbours: what every transport does, and what it tells its owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace torus {

// What stands before the bytes of each message; all processes of a job run on one kind of machine.
struct Header {
  static constexpr uint32_t MAGIC = 0x7075f6a5;
  enum Kind : uint32_t { DATA, FAILURE };

  uint32_t magic = MAGIC;
  uint32_t kind = DATA;
  uint64_t tag = 0;    // of the call in the program
  uint32_t round = 0;  // how often that call was made before
  uint32_t chunk = 0;
  uint32_t step = 0;
  uint32_t type = 0;    // what is done, and the type of the elements
  uint64_t length = 0;  // of the whole array
  uint64_t bytes = 0;   // that follow
};
static_assert(sizeof(Header) == 48);

// Is told what happens on links, in the thread that calls `Transport::progress`.
class Receiver {
 public:
  // Returns where the bytes of a message that begins to arrive are to go.
  virtual std::byte* place(int link, const Header& header) = 0;
  // The message of that header is there as a whole.
  virtual void arrived(int link, const Header& header) = 0;
  // The oldest message that was given to `send` on this link has left, and its memory is free.
  virtual void sent(int link) = 0;
  // Nothing comes from there any more, nor goes there.
  virtual void lost(int link, const std::string& why) = 0;

 protected:
  ~Receiver() = default;
};

// Messages of one link arrive whole and in the order in which they were sent.
class Transport {
 public:
  virtual ~Transport() = default;
  // How many messages a link takes at once.
  virtual int depth() const = 0;
  // Begins to send; `payload` stays where it is until `Receiver::sent`.
  virtual void send(int link, const Header& header, const std::byte* payload) = 0;
  // Sends and receives what can be, and returns; before that it waits, if `wait`, until something
  // can be, or for a while, or for `wake`.
  virtual void progress(Receiver& receiver, bool wait) = 0;
  // Ends the wait of `progress`; from any thread.
  virtual void wake() = 0;
};

}  // namespace torus
