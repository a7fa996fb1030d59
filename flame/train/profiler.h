// Where the time of a program goes: ranges of its own, ops, launches and kernels on one Chrome trace with the memory they take,
// and a table of each op's time against the least it could take. Without a Profiler all of it costs a branch a launch.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "flame/core/error.h"

namespace flame::train {

struct ProfilerOptions {
  std::string trace = {};  // a file that stop() writes, for chrome://tracing and ui.perfetto.dev; empty: none
  bool kernels = true;     // GPUs' kernels by CUPTI, which one program at a time may use: false under Nsight Systems
  bool nvtx = false;       // scopes, ops and launches as NVTX ranges too: what Nsight Systems shows
};

// All launches of one name on one device. A launch's floor is the larger of two times: its bytes, each input and each output
// once, by the bandwidth of a copy; and its operations by the speed of a large product of that dtype. Both are measured on the
// device when rows are first asked for.
struct ProfileRow {
  std::string name, device;
  uint64_t calls = 0;
  double seconds = 0, floor = 0;  // of all calls; floor 0: not known
  int64_t bytes = 0, flops = 0;   // of all calls
};

// lost: time beyond the floor.
enum class ProfileSort : uint8_t { total, mean, calls, bytes, lost, name };
struct ProfileTableOptions {
  ProfileSort sort = ProfileSort::total;
  size_t rows = 0;  // at most; 0: all
};

// Notes what all threads do from its making until stop(). Times are those of kernels: on the CPU of the launches, which run at
// once; on GPUs, of those open when it is made, what CUPTI tells.
class Profiler {
 public:
  // ValueError if another one is at work; DeviceError if CUPTI or NVTX is asked for and missing.
  explicit Profiler(ProfilerOptions options = {}, Loc loc = Loc::current());
  ~Profiler();  // stops; a trace that cannot be written is dropped here, so call stop() where it matters
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  void stop(Loc loc = Loc::current());  // waits for the devices; IoError if the trace cannot be written
  // ValueError before stop().
  const std::vector<ProfileRow>& rows(Loc loc = Loc::current());  // the longest first
  std::string table(const ProfileTableOptions& o = {}, Loc loc = Loc::current());
  void write_trace(const std::string& path, Loc loc = Loc::current()) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A range of the program's own in the trace, such as "forward": from here to the end of the C++ scope.
class ProfileScope {
 public:
  explicit ProfileScope(const char* name, Loc loc = Loc::current());
  ~ProfileScope();
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace flame::train
