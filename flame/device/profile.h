// Internal: what a process does while it is profiled: ranges and launches of the host, memory by kind, and what GPUs tell. One
// branch a launch while it is not. See train/profiler.h for the public face.
#pragma once
#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "flame/device/device.h"

namespace flame {

// Bytes of an array, what is repeated by a stride of 0 once.
int64_t ideal_bytes(const Meta& m);
int64_t ideal_bytes(std::span<const Meta> all);
// Its plan's; where that says nothing, each buffer to the end of its storage.
Work work_of(const Launch& l);
std::string name_of(const Plan& p);  // "linear: gemm"

// The parts of a recorded step that is launched as one, and how many nodes of the graph each is.
struct ProfilePart {
  std::string name;
  Work work;
  size_t nodes = 0;
  std::vector<std::string> kernels = {};  // of each node; empty: not known
};
using ProfileParts = std::shared_ptr<const std::vector<ProfilePart>>;

enum class RangeKind : uint8_t { scope, op, backward, launch };
struct ProfiledRange {
  RangeKind kind;
  uint32_t thread;  // numbered from 0 as they first show up
  std::string name;
  int64_t start, end;              // nanoseconds of the steady clock
  uint64_t launch = 0;             // its number, from 1; 0: none
  const Device* device = nullptr;  // of a launch
  Work work = {};
  ProfileParts parts = {};  // of a launch that is a whole recorded step
  Loc where = {};           // line 0: not known
};
struct ProfiledMemory {
  int64_t at;
  const Device* device;
  std::array<size_t, num_memory_kinds> bytes;
};
// A kernel, a copy or a fill.
struct ProfiledActivity {
  std::string name;
  int64_t start, end;
  std::string device;
  uint32_t stream;
  uint64_t launch;  // that asked for it; 0: not known
  uint64_t node;    // of a graph, in the order of their making; 0: none
};
struct Profile {
  int64_t start = 0, end = 0;
  std::vector<ProfiledRange> ranges;  // in the order of their ends
  std::vector<ProfiledMemory> memory;
  std::vector<ProfiledActivity> activities;
};

// Who else is told when ranges begin and end, on their threads. Null: nobody.
struct ProfileListener {
  void (*push)(const char* name) = nullptr;
  void (*pop)() = nullptr;
  void (*enter_launch)(uint64_t launch) = nullptr;
  void (*leave_launch)() = nullptr;
};

extern std::atomic<bool> profiling_now;
inline bool profiling() { return profiling_now.load(std::memory_order_relaxed); }
bool start_profile(const ProfileListener& l);  // false: one is under way
Profile stop_profile();
int64_t profile_clock();
void profile_memory(const Device& d);  // notes what is allocated now

// What a thread does while one lives. What began before the profile, or ends after it, is no part of it.
class ProfileRange {
 public:
  ProfileRange(RangeKind kind, std::string_view name, Loc where) {
    if (profiling()) begin({kind, 0, std::string(name), 0, 0, 0, nullptr, {}, {}, where});
  }
  ProfileRange(const Device& d, const Launch& l, Loc where) {
    if (profiling()) begin({RangeKind::launch, 0, name_of(*l.plan), 0, 0, 1, &d, work_of(l), {}, where});
  }
  ProfileRange(const Device& d, const ProfileParts& step) {
    if (profiling()) begin({RangeKind::launch, 0, "recorded step", 0, 0, 1, &d, {}, step, {}});
  }
  ~ProfileRange() {
    if (open_) end();
  }
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;

  static uint64_t launch();  // the number of the launch that this thread makes; 0: none
  // For a launch that another one has put off.
  class Late {
   public:
    explicit Late(uint64_t launch);
    ~Late();
    Late(const Late&) = delete;
    Late& operator=(const Late&) = delete;

   private:
    void (*leave_)() = nullptr;
  };

 private:
  struct Open;
  void begin(ProfiledRange r);
  void end();
  Open* open_ = nullptr;  // owned
};

// The CPU, and all devices that were registered.
std::vector<Device*> known_devices();

}  // namespace flame
