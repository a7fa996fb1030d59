// For profilers: what a GPU does, as CUPTI's activity records tell it, and ranges for NVIDIA's tools by NVTX. Both libraries are
// opened when a profiler asks for them.
#include "flame/device/profile.h"

#include <algorithm>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "flame/core/format.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/library.h"

#if __has_include(<cupti.h>)
#define FLAME_HAS_CUPTI
#include <cupti.h>
#include <cxxabi.h>
#endif
#if __has_include(<nvtx3/nvToolsExt.h>)
#define FLAME_HAS_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

using namespace flame;

namespace {

#ifdef FLAME_HAS_CUPTI

#define FLAME_CUPTI_FUNCTIONS(F)            \
  F(cuptiActivityRegisterCallbacks)         \
  F(cuptiActivityEnable)                    \
  F(cuptiActivityDisable)                   \
  F(cuptiActivityFlushAll)                  \
  F(cuptiActivityGetNextRecord)             \
  F(cuptiActivityPushExternalCorrelationId) \
  F(cuptiActivityPopExternalCorrelationId)  \
  F(cuptiGetTimestamp)                      \
  F(cuptiGetResultString)

struct Cupti {
#define FLAME_DECLARE(name) decltype(&::name) name = nullptr;
  FLAME_CUPTI_FUNCTIONS(FLAME_DECLARE)
#undef FLAME_DECLARE
  Cupti() {
    void* const library = cuda::need_library("CUPTI, by which kernels are timed,", {"libcupti.so.13", "libcupti.so"});
#define FLAME_LOAD(name) name = reinterpret_cast<decltype(name)>(cuda::need_symbol(library, #name));
    FLAME_CUPTI_FUNCTIONS(FLAME_LOAD)
#undef FLAME_LOAD
  }
};
const Cupti& cupti() {
  static const Cupti one;
  return one;
}

void check(CUptiResult r, const char* what) {
  if (r == CUPTI_SUCCESS) return;
  const char* text = nullptr;
  cupti().cuptiGetResultString(r, &text);
  fail<DeviceError>(Loc::current(), "profiler: {}: {} (only one program at a time may use CUPTI)", what,
                    text ? text : "no text");
}

constexpr auto external = CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0;
// Launches are noted on the calls that they make, of the driver or, by NVIDIA's libraries, of the runtime.
constexpr CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION,
                                        CUPTI_ACTIVITY_KIND_DRIVER,
                                        CUPTI_ACTIVITY_KIND_RUNTIME,
                                        CUPTI_ACTIVITY_KIND_MEMCPY,
                                        CUPTI_ACTIVITY_KIND_MEMSET,
                                        CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL};

// What CUPTI's thread has given so far; launches by the numbers of the driver calls that they made.
struct Records {
  std::mutex mutex;
  struct Seen {
    ProfiledActivity activity;
    uint32_t call;
  };
  std::vector<Seen> seen;
  std::unordered_map<uint32_t, uint64_t> launches;
  int64_t to_host_clock = 0;
} records;

std::string plain_name(const char* name) {
  if (!name || std::string_view(name).substr(0, 2) != "_Z") return name ? name : "kernel";
  int status = 0;
  char* const text = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string out = status == 0 && text ? text : name;
  std::free(text);
  return out;
}

const char* copy_name(int kind) {
  switch (kind) {
    case CUPTI_ACTIVITY_MEMCPY_KIND_HTOD: return "copy host to device";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOH: return "copy device to host";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOD: return "copy within device";
    default: return "copy";
  }
}

template <class Record>
void add(const Record& r, std::string name) {
  const auto at = [](uint64_t t) { return static_cast<int64_t>(t) + records.to_host_clock; };
  records.seen.push_back(
      {{std::move(name), at(r.start), at(r.end), fmt::format("cuda:{}", r.deviceId), r.streamId, 0, r.graphNodeId},
       r.correlationId});
}

void note(const CUpti_Activity& r) {
  if (r.kind == CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION) {
    const auto& e = reinterpret_cast<const CUpti_ActivityExternalCorrelation&>(r);
    if (e.externalKind == external) records.launches[e.correlationId] = e.externalId;
  } else if (r.kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
    const auto& k = reinterpret_cast<const CUpti_ActivityKernel10&>(r);
    add(k, plain_name(k.name));
  } else if (r.kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
    const auto& c = reinterpret_cast<const CUpti_ActivityMemcpy6&>(r);
    add(c, copy_name(c.copyKind));
  } else if (r.kind == CUPTI_ACTIVITY_KIND_MEMSET) {
    add(reinterpret_cast<const CUpti_ActivityMemset4&>(r), "fill");
  }
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* most_records) {
  *size = size_t{1} << 20;
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, *size));
  *most_records = 0;
}
void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  CUpti_Activity* r = nullptr;
  {
    std::lock_guard lock(records.mutex);
    while (cupti().cuptiActivityGetNextRecord(buffer, valid, &r) == CUPTI_SUCCESS) note(*r);
  }
  std::free(buffer);
}

void enter_launch(uint64_t launch) { cupti().cuptiActivityPushExternalCorrelationId(external, launch); }
void leave_launch() {
  uint64_t launch = 0;
  cupti().cuptiActivityPopExternalCorrelationId(external, &launch);
}

bool started = false;  // there is something to stop

void stop() {
  if (!std::exchange(started, false)) return;
  for (const CUpti_ActivityKind k : kinds) cupti().cuptiActivityDisable(k);
  cupti().cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
}

void start(ProfileListener& l) {
  if (cuda::CudaDevice::opened().empty()) return;
  const Cupti& c = cupti();
  {
    std::lock_guard lock(records.mutex);
    records.seen.clear();
    records.launches.clear();
    uint64_t there = 0;
    const int64_t before = profile_clock();
    check(c.cuptiGetTimestamp(&there), "cuptiGetTimestamp");
    records.to_host_clock = (before + profile_clock()) / 2 - static_cast<int64_t>(there);
  }
  check(c.cuptiActivityRegisterCallbacks(give_buffer, take_buffer), "cuptiActivityRegisterCallbacks");
  started = true;
  try {
    for (const CUpti_ActivityKind k : kinds) check(c.cuptiActivityEnable(k), "cuptiActivityEnable");
  } catch (...) {
    stop();
    throw;
  }
  l.enter_launch = enter_launch;
  l.leave_launch = leave_launch;
}

#else

void start(ProfileListener&) {
  if (!cuda::CudaDevice::opened().empty())
    fail<DeviceError>(Loc::current(), "profiler: libflame_cuda.so was built without CUPTI's header, cupti.h");
}

#endif

void need_nvtx(ProfileListener& l) {
#ifdef FLAME_HAS_NVTX
  l.push = [](const char* name) { nvtxRangePushA(name); };
  l.pop = [] { nvtxRangePop(); };
#else
  static int (*push)(const char*);
  static int (*pop)();
  void* const library =
      cuda::need_library("NVTX, by which ranges are told,", {"libnvToolsExt.so.1", "libnvToolsExt.so"});
  push = reinterpret_cast<decltype(push)>(cuda::need_symbol(library, "nvtxRangePushA"));
  pop = reinterpret_cast<decltype(pop)>(cuda::need_symbol(library, "nvtxRangePop"));
  l.push = [](const char* name) { push(name); };
  l.pop = [] { pop(); };
#endif
}

// Empty, or what went wrong.
template <class F>
const char* told(F&& fn) {
  static thread_local std::string why;
  why.clear();
  try {
    fn();
  } catch (const std::exception& e) { why = e.what(); }
  return why.c_str();
}

}  // namespace

extern "C" {

// From now on the work of the GPUs that are open is noted. Empty, or what is missing.
[[gnu::visibility("default")]] const char* flame_cuda_profile_start(ProfileListener* l) {
  return told([&] { start(*l); });
}
// What was done since then, by launches; the devices have been waited for.
[[gnu::visibility("default")]] void flame_cuda_profile_stop(std::vector<ProfiledActivity>* out) {
#ifdef FLAME_HAS_CUPTI
  stop();
  std::lock_guard lock(records.mutex);
  for (Records::Seen& s : records.seen) {
    if (const auto it = records.launches.find(s.call); it != records.launches.end()) s.activity.launch = it->second;
    out->push_back(std::move(s.activity));
  }
  records.seen.clear();
  records.launches.clear();
#else
  static_cast<void>(out);
#endif
}
// Ranges are told to NVTX. Empty, or what is missing.
[[gnu::visibility("default")]] const char* flame_cuda_nvtx(ProfileListener* l) {
  return told([&] { need_nvtx(*l); });
}
}
