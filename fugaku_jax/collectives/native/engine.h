// The collectives of one process: a thread that sends, receives and adds.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "call.h"
#include "threads.h"
#include "transport.h"

namespace torus {

class Engine final : Receiver {
 public:
  // Names: what this process is called, and by link, whoever is at its other end.
  Engine(std::vector<Axis> axes, std::unique_ptr<Transport> transport, std::string own_name,
         std::vector<std::string> names);
  ~Engine();

  // Begins a collective and returns; from any thread. Calls may be under way together, and begin
  // in another order elsewhere: a tag and how often it came tell which belong together.
  void submit(Request request);

 private:
  using Name = std::tuple<uint64_t, uint32_t>;                      // of a call: tag, round
  using Early = std::tuple<uint64_t, uint32_t, uint32_t, uint32_t>;  // and chunk, step
  using Place = std::tuple<uint64_t, size_t, int64_t>;  // of a call, step, chunk

  struct Message {
    Header header;
    const std::byte* payload;
    Progress* progress;
  };

  struct Link {
    std::string name;
    bool lost = false;
    std::string why;
    std::multimap<Place, Message> waiting;  // what has the longest way to go comes first
    std::deque<Progress*> under_way;
    std::vector<std::byte> stash;  // of what arrives before its turn, or is to be added
    bool direct = false;           // what arrives goes where it belongs at once
  };

  void run();
  void begin(std::unique_ptr<Call> call);
  void begin_chunks(Call& call);
  void enter(Progress& p);
  void go_on(Progress& p);
  void apply(Progress& p, const std::byte* data);
  void finish(Progress& p);
  void complete(Call& call);
  void post(int link, const Message& message, Place place);
  void pump(int link);
  void fail(const std::string& failure);
  void end(Call& call, const std::string* failure);
  std::string difference(const Call& call, int link, const Header& header) const;
  bool needs(const Call& call, int link) const;
  bool has_arrived(const Call& call, size_t chunk, size_t step) const;
  Progress* find(const Header& header);

  std::byte* place(int link, const Header& header) override;
  void arrived(int link, const Header& header) override;
  void sent(int link) override;
  void lost(int link, const std::string& why) override;

  const std::vector<Axis> axes_;
  const std::unique_ptr<Transport> transport_;
  const std::string name_;
  std::vector<Link> links_;
  std::map<Name, std::unique_ptr<Call>> calls_;
  std::vector<std::unique_ptr<Call>> completed_;
  std::vector<std::unique_ptr<Call>> failed_;  // their memory may still be on its way
  std::map<Early, std::pair<int, std::pair<Header, std::vector<std::byte>>>> early_;
  std::string failure_;
  uint64_t begun_ = 0;

  std::mutex mutex_;  // of what follows
  std::deque<std::unique_ptr<Call>> submitted_;
  std::map<uint64_t, uint32_t> rounds_;
  bool closed_ = false;

  std::thread thread_;  // the last to be made
};

// Where those go on who wait for a collective of any engine; it is never destroyed.
Threads& threads();

}  // namespace torus
