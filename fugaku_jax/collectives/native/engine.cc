// How chunks advance: `engine.h`.
#include "engine.h"

#include <algorithm>

#include "pool.h"

namespace torus {

namespace {

// Chunks of a call that are under way at once: enough for every link to have something to send.
constexpr size_t WINDOW = 128;

const char* const KINDS[] = {"an all-reduce", "a reduce-scatter", "an all-gather"};
const char* const TYPES[] = {"float32", "bfloat16", "float16", "int32", "bytes"};

std::string describe(uint32_t type, uint64_t length) {
  const uint32_t kind = type >> 8, element = type & 0xff;
  return std::string(kind < 3 ? KINDS[kind] : "something") + " of " + std::to_string(length) + " " +
         (element < 5 ? TYPES[element] : "unknown");
}

}  // namespace

Threads& threads() {
  static Threads& all = *new Threads;
  return all;
}

Engine::Engine(std::vector<Axis> axes, std::unique_ptr<Transport> transport, std::string own_name,
               std::vector<std::string> names)
    : axes_(std::move(axes)), transport_(std::move(transport)), name_(std::move(own_name)),
      links_(names.size()) {
  for (size_t i = 0; i < names.size(); ++i) links_[i].name = std::move(names[i]);
  thread_ = std::thread([this] { run(); });
}

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  transport_->wake();
  thread_.join();
}

void Engine::submit(Request request) {
  auto call = std::make_unique<Call>();
  call->request = std::move(request);
  call->sizes = axes_;
  {
    const std::lock_guard lock(mutex_);
    call->round = rounds_[call->request.tag]++;
    submitted_.push_back(std::move(call));
  }
  transport_->wake();
}

void Engine::run() {
  [[maybe_unused]] const pool::FlushDenormals flush;
  for (;;) {
    std::deque<std::unique_ptr<Call>> submitted;
    {
      const std::lock_guard lock(mutex_);
      if (closed_) break;
      submitted.swap(submitted_);
    }
    for (auto& call : submitted) begin(std::move(call));
    transport_->progress(*this, submitted.empty());
    completed_.clear();
  }
  if (!calls_.empty()) fail(name_ + " has closed its connections");
  for (int i = 0; i < 10; ++i) transport_->progress(*this, false);  // what can be told still is
}

void Engine::begin(std::unique_ptr<Call> owned) {
  Call& call = *owned;
  const Request& request = call.request;
  for (const auto& legs : request.routes)
    call.steps.push_back(make_steps(axes_, legs, call.scatters(), call.gathers()));
  call.chunks.resize(request.chunks.size());
  call.place = begun_++;
  for (const auto& [name, other] : calls_)
    if (std::get<0>(name) == request.tag && !request.started && failure_.empty())
      fail(name_ + " began the same sum again before it had ended");
  if (!failure_.empty()) return end(call, &failure_);
  for (size_t link = 0; link < links_.size(); ++link) {
    if (!links_[link].lost || !needs(call, int(link))) continue;
    fail(links_[link].name + " has ended, and a sum needs it");
    return end(call, &failure_);
  }
  calls_[{request.tag, call.round}] = std::move(owned);
  const auto first = early_.lower_bound({request.tag, call.round, 0, 0});
  for (auto it = first; it != early_.end(); ++it) {
    const Header& header = it->second.second.first;
    if (header.tag != request.tag || header.round != call.round) break;
    if (const auto text = difference(call, it->second.first, header); !text.empty())
      return fail(text);
  }
  if (request.chunks.empty()) return complete(call);
  begin_chunks(call);
}

void Engine::begin_chunks(Call& call) {
  while (call.begun < call.chunks.size() && call.begun < call.finished + WINDOW) {
    auto& chunk = call.chunks[call.begun];
    chunk = std::make_unique<Progress>(Progress{&call, int64_t(call.begun), 0, 0, {}, {}});
    ++call.begun;
    call.copy_in(*chunk);
    enter(*chunk);
    go_on(*chunk);
    if (!failure_.empty()) return;
  }
}

// Sends what the step that begins has to send.
void Engine::enter(Progress& p) {
  Call& call = *p.call;
  if (call.rounds() && p.step == size_t(call.steps_of(p).scatters)) call.round_own(p);
  if (call.at_end(p)) return;
  const Step& step = call.step(p);
  const Call::Part part = call.part(p, step.gather, step.send_first, step.send_end);
  Header header;
  header.tag = call.request.tag;
  header.round = call.round;
  header.chunk = uint32_t(p.number);
  header.step = uint32_t(p.step);
  header.type = call.type();
  header.length = uint64_t(call.request.length);
  header.bytes = uint64_t(part.bytes);
  ++p.unsent;
  post(step.to, {header, part.data, &p}, {call.place, p.step, p.number});
}

// Takes the steps whose message is there already.
void Engine::go_on(Progress& p) {
  Call& call = *p.call;
  while (!call.at_end(p)) {
    const auto found = early_.find(
        {call.request.tag, call.round, uint32_t(p.number), uint32_t(p.step)});
    if (found == early_.end()) return;
    apply(p, found->second.second.second.data());
    early_.erase(found);
    ++p.step;
    enter(p);
  }
  if (p.unsent == 0) finish(p);
}

void Engine::apply(Progress& p, const std::byte* data) {
  const Call& call = *p.call;
  const Step& step = call.step(p);
  const auto part = call.part(p, step.gather, step.receive_first, step.receive_end);
  if (!step.gather)
    add(call.request.type, data, part.data, part.count);
  else if (data != part.data && part.bytes)
    std::memcpy(part.data, data, size_t(part.bytes));
}

void Engine::finish(Progress& p) {
  Call& call = *p.call;
  call.copy_out(p);
  call.chunks[size_t(p.number)].reset();
  if (++call.finished < call.chunks.size()) return begin_chunks(call);
  complete(call);
}

void Engine::complete(Call& call) {
  end(call, nullptr);
  const auto found = calls_.find({call.request.tag, call.round});
  completed_.push_back(std::move(found->second));  // who called this may still look at it
  calls_.erase(found);
}

void Engine::end(Call& call, const std::string* failure) {
  auto done = std::move(call.request.done);
  if (failure)
    threads().run([done, text = *failure] { done(&text); });
  else
    threads().run([done] { done(nullptr); });
}

void Engine::post(int link, const Message& message, Place place) {
  links_[size_t(link)].waiting.emplace(place, message);
  pump(link);
}

void Engine::pump(int number) {
  Link& link = links_[size_t(number)];
  while (!link.lost && !link.waiting.empty() &&
         int(link.under_way.size()) < transport_->depth()) {
    const Message message = link.waiting.begin()->second;
    link.waiting.erase(link.waiting.begin());
    link.under_way.push_back(message.progress);
    transport_->send(number, message.header, message.payload);
  }
}

// Ends all that is under way and all that will be, and tells the neighbours, who tell theirs.
void Engine::fail(const std::string& failure) {
  if (!failure_.empty()) return;
  failure_ = failure;
  for (auto& [name, call] : calls_) {
    end(*call, &failure_);
    failed_.push_back(std::move(call));
  }
  calls_.clear();
  Header header;
  header.kind = Header::FAILURE;
  header.bytes = failure_.size();
  for (size_t link = 0; link < links_.size(); ++link) {
    links_[link].waiting.clear();
    post(int(link), {header, reinterpret_cast<const std::byte*>(failure_.data()), nullptr}, {});
  }
}

std::string Engine::difference(const Call& call, int link, const Header& header) const {
  if (header.type == call.type() && header.length == uint64_t(call.request.length)) return "";
  return links_[size_t(link)].name + " brings " + describe(header.type, header.length) +
         " where " + name_ + " has " +
         describe(call.type(), uint64_t(call.request.length));
}

bool Engine::has_arrived(const Call& call, size_t chunk, size_t step) const {
  return early_.contains({call.request.tag, call.round, uint32_t(chunk), uint32_t(step)});
}

// Whether a call has still to hear from a link, or to send to it.
bool Engine::needs(const Call& call, int link) const {
  for (size_t i = 0; i < call.chunks.size(); ++i) {
    const Progress* p = call.chunks[i].get();
    if (!p && i < call.begun) continue;  // it has ended
    const auto& steps = call.steps[size_t(call.request.chunks[i].route)].steps;
    for (size_t s = p ? p->step : 0; s < steps.size(); ++s)
      if ((steps[s].from == link && !has_arrived(call, i, s)) ||
          (steps[s].to == link && !(p && s == p->step)))
        return true;
  }
  const Link& there = links_[size_t(link)];
  const auto of_call = [&](const Progress* p) { return p && p->call == &call; };
  return std::ranges::any_of(there.under_way, of_call) ||
         std::ranges::any_of(there.waiting,
                             [&](const auto& each) { return of_call(each.second.progress); });
}

Progress* Engine::find(const Header& header) {
  const auto call = calls_.find({header.tag, header.round});
  if (call == calls_.end() || header.chunk >= call->second->chunks.size()) return nullptr;
  return call->second->chunks[header.chunk].get();
}

std::byte* Engine::place(int number, const Header& header) {
  Link& link = links_[size_t(number)];
  link.direct = false;
  if (header.kind == Header::DATA && failure_.empty()) {
    const auto call = calls_.find({header.tag, header.round});
    if (call != calls_.end())
      if (const auto text = difference(*call->second, number, header); !text.empty()) fail(text);
  }
  Progress* p = failure_.empty() && header.kind == Header::DATA ? find(header) : nullptr;
  if (p && p->step == header.step && p->call->step(*p).gather) {
    const Step& step = p->call->step(*p);
    const auto part = p->call->part(*p, true, step.receive_first, step.receive_end);
    if (uint64_t(part.bytes) == header.bytes) {
      link.direct = true;
      return part.data;
    }
  }
  link.stash.resize(header.bytes);
  return link.stash.data();
}

void Engine::arrived(int number, const Header& header) {
  Link& link = links_[size_t(number)];
  if (header.kind == Header::FAILURE)
    return fail(std::string(reinterpret_cast<const char*>(link.stash.data()), header.bytes));
  if (!failure_.empty()) return;
  Progress* p = find(header);
  if (!p || p->step != header.step) {
    early_[{header.tag, header.round, header.chunk, header.step}] = {
        number, {header, std::move(link.stash)}};
    link.stash = {};
    return;
  }
  const Step& step = p->call->step(*p);
  const auto part = p->call->part(*p, step.gather, step.receive_first, step.receive_end);
  if (uint64_t(part.bytes) != header.bytes || step.from != number)
    return fail(link.name + " and " + name_ + " do not cut a sum alike");
  apply(*p, link.direct ? part.data : link.stash.data());
  ++p->step;
  enter(*p);
  go_on(*p);
}

void Engine::sent(int number) {
  Link& link = links_[size_t(number)];
  Progress* p = link.under_way.front();
  link.under_way.pop_front();
  pump(number);
  if (!p || !failure_.empty()) return;
  --p->unsent;
  if (p->unsent == 0 && p->call->at_end(*p)) finish(*p);
}

void Engine::lost(int number, const std::string& why) {
  Link& link = links_[size_t(number)];
  link.lost = true;
  link.why = why;
  const auto needing = std::ranges::find_if(
      calls_, [&](const auto& each) { return needs(*each.second, number); });
  if (needing != calls_.end())
    fail(link.name + " ended in the middle of a sum" + (why.empty() ? "" : " (" + why + ")"));
}

}  // namespace torus
