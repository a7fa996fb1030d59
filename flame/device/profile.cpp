// The profile that is under way: one for the process, filled by all its threads.
#include "flame/device/profile.h"

#include <chrono>
#include <mutex>
#include <new>

namespace flame {

std::atomic<bool> profiling_now{false};

namespace {

struct Current {
  std::mutex mutex;
  Profile profile;
  ProfileListener listener;
  uint64_t session = 0, launches = 0;
};
Current& current() {
  static auto* one = new Current;  // ranges of static objects may outlive it
  return *one;
}

std::atomic<uint32_t> next_thread{0};
thread_local uint32_t thread_number = ~0u;
thread_local uint64_t launch_number = 0;

uint32_t this_thread() {
  if (thread_number == ~0u) thread_number = next_thread++;
  return thread_number;
}

}  // namespace

int64_t profile_clock() {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

int64_t ideal_bytes(const Meta& m) {
  auto bytes = static_cast<int64_t>(size_of(m.dtype));
  for (int i = 0; i < m.shape.rank(); ++i)
    if (m.shape[i] == 0 || m.strides[i] != 0) bytes *= m.shape[i];
  return bytes;
}
int64_t ideal_bytes(std::span<const Meta> all) {
  int64_t bytes = 0;
  for (const Meta& m : all) bytes += ideal_bytes(m);
  return bytes;
}
Work work_of(const Launch& l) {
  Work w = l.plan->work;
  if (w.bytes >= 0) return w;
  w.bytes = 0;
  for (const auto& buffers : {l.reads, l.writes})
    for (const Buffer& b : buffers) w.bytes += static_cast<int64_t>(b.storage->bytes()) - b.offset;
  return w;
}

std::string name_of(const Plan& p) { return p.user.empty() ? p.op : p.user + ": " + p.op; }

struct ProfileRange::Open {
  ProfiledRange range;
  ProfileListener listener;
  uint64_t session, launch_before;
};

void ProfileRange::begin(ProfiledRange r) {
  Current& c = current();
  auto open = std::make_unique<Open>();
  {
    std::lock_guard lock(c.mutex);
    if (!profiling()) return;
    open->listener = c.listener;
    open->session = c.session;
    if (r.launch) r.launch = ++c.launches;
  }
  r.thread = this_thread();
  open->launch_before = launch_number;
  if (r.launch) launch_number = r.launch;
  if (open->listener.push) open->listener.push(r.name.c_str());
  if (r.launch && open->listener.enter_launch) open->listener.enter_launch(r.launch);
  open->range = std::move(r);
  open->range.start = profile_clock();
  open_ = open.release();
}

void ProfileRange::end() {
  const std::unique_ptr<Open> open(open_);
  ProfiledRange& r = open->range;
  r.end = profile_clock();
  const ProfileListener& l = open->listener;
  if (r.launch && l.leave_launch) l.leave_launch();
  if (l.pop) l.pop();
  launch_number = open->launch_before;
  Current& c = current();
  std::lock_guard lock(c.mutex);
  if (profiling() && c.session == open->session) c.profile.ranges.push_back(std::move(r));
}

uint64_t ProfileRange::launch() { return launch_number; }

ProfileRange::Late::Late(uint64_t launch) {
  if (launch == 0 || !profiling()) return;
  ProfileListener l;
  {
    std::lock_guard lock(current().mutex);
    l = current().listener;
  }
  if (!l.enter_launch) return;
  l.enter_launch(launch);
  leave_ = l.leave_launch;
}
ProfileRange::Late::~Late() {
  if (leave_) leave_();
}

void profile_memory(const Device& d) {
  const MemoryStats s = d.memory_stats();
  Current& c = current();
  std::lock_guard lock(c.mutex);
  if (!profiling()) return;
  try {
    c.profile.memory.push_back({profile_clock(), &d, {s.tensors, s.recordings, s.workspace, s.staging}});
  } catch (const std::bad_alloc&) {}  // one sample less; tensors end here too, who cannot throw
}

bool start_profile(const ProfileListener& l) {
  Current& c = current();
  {
    std::lock_guard lock(c.mutex);
    if (profiling()) return false;
    c.profile = {};
    c.listener = l;
    ++c.session;
    c.launches = 0;
    c.profile.start = profile_clock();
    profiling_now = true;
  }
  for (const Device* d : known_devices()) profile_memory(*d);
  return true;
}

Profile stop_profile() {
  Current& c = current();
  std::lock_guard lock(c.mutex);
  profiling_now = false;
  c.listener = {};
  c.profile.end = profile_clock();
  return std::move(c.profile);
}

}  // namespace flame
