// The GPU: memory, kernels, and the errors of all of them. Copies are in transfers.cpp.
#include "flame/device/cuda/cuda_device.h"

#include <algorithm>
#include <cstdlib>

#include "flame/core/format.h"
#include "flame/device/cuda/step_graph.h"
#include "flame/device/cuda/libraries.h"
#include "flame/device/planted.h"

namespace flame::cuda {
namespace {

bool sticky(CUresult r) {
  switch (r) {
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ECC_UNCORRECTABLE: return true;
    default: return false;
  }
}

struct PlantedFailures {
  std::mutex mutex;
  int64_t until = 0, count = 0, fired = 0;
  bool next() {
    std::lock_guard lock(mutex);
    if (count == 0 || --until > 0) return false;
    --count;
    ++fired;
    return true;
  }
} planted;

struct OpenDevices {
  std::mutex mutex;
  std::vector<CudaDevice*> all;
};
OpenDevices& open_devices() {
  static auto* one = new OpenDevices;
  return *one;
}

}  // namespace

thread_local const std::string* CudaDevice::launching_ = nullptr;

std::vector<CudaDevice*> CudaDevice::opened() {
  std::lock_guard lock(open_devices().mutex);
  return open_devices().all;
}

void fail_driver_allocation(int64_t nth, int64_t count) {
  std::lock_guard lock(planted.mutex);
  planted.until = nth;
  planted.count = nth > 0 ? count : 0;
}
int64_t driver_failures() {
  std::lock_guard lock(planted.mutex);
  return planted.fired;
}
bool CudaDevice::graph_refused() { return planted.next(); }

CudaDevice::CudaDevice(int ordinal)
    : Device(Kind::cuda, fmt::format("cuda:{}", ordinal)),
      memory_(
          [this](size_t bytes) -> void* {
            if (planted.next()) return nullptr;
            enter();
            CUdeviceptr p = 0;
            const CUresult r = driver().cuMemAlloc(&p, bytes);
            if (r == CUDA_ERROR_OUT_OF_MEMORY) return nullptr;
            check(r, "allocation");
            return reinterpret_cast<void*>(p);
          },
          [this](void* p) {
            if (!try_enter()) return;  // the device is lost
            driver().cuMemFree(reinterpret_cast<CUdeviceptr>(p));
          },
          [this] {
            if (queue_.size() > 0) return false;  // what waits may use memory that was freed behind it
            wait_stream();
            return true;
          }) {
  const Driver& d = driver();
  check(d.cuDeviceGet(&handle_, ordinal), "cuDeviceGet");
  check(d.cuDevicePrimaryCtxRetain(&context_, handle_), "cuDevicePrimaryCtxRetain");
  enter();
  int major = 0, minor = 0;
  check(d.cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, handle_), "cuDeviceGetAttribute");
  check(d.cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, handle_), "cuDeviceGetAttribute");
  arch_ = 10 * major + minor;
  check(d.cuDeviceGetAttribute(&shared_of_block_, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, handle_),
        "cuDeviceGetAttribute");
  check(d.cuDeviceGetAttribute(&processors_, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, handle_),
        "cuDeviceGetAttribute");
  char text[128] = "";
  check(d.cuDeviceGetName(text, sizeof text, handle_), "cuDeviceGetName");
  gpu_name_ = text;
  check(d.cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  check(d.cuStreamCreate(&copy_stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  watch_.start(stream_);
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return value && *value == '1';
  };
  sync_ = set("FLAME_SYNC");
  set_direct(set("FLAME_CUDA_DIRECT"));
  size_t total = 0;
  check(d.cuMemGetInfo(&free_at_start_, &total), "cuMemGetInfo");
  libraries_ = std::make_unique<Libraries>(*this);
  std::lock_guard lock(open_devices().mutex);
  open_devices().all.push_back(this);
}
CudaDevice::~CudaDevice() = default;  // lives as long as the process; the driver cleans up

bool CudaDevice::try_enter() const noexcept {
  CUcontext now = nullptr;  // another GPU's, or what a library of the program's made current
  if (driver().cuCtxGetCurrent(&now) == CUDA_SUCCESS && now == context_) return true;
  return driver().cuCtxSetCurrent(context_) == CUDA_SUCCESS;
}
void CudaDevice::enter() const {
  if (!try_enter()) check(driver().cuCtxSetCurrent(context_), "cuCtxSetCurrent");
}

void CudaDevice::check(CUresult r, const char* what) const {
  if (r == CUDA_SUCCESS) return;
  std::string message = fmt::format("{} on {}: {}", what, name(), describe(r));
  if (r == CUDA_ERROR_OUT_OF_MEMORY) fail<OutOfMemory>(Loc::current(), "{}", message);
  if (sticky(r)) {
    std::lock_guard lock(poison_mutex_);
    if (poisoned_) message = poison_;
    else
      message += fmt::format("; the launch that caused it is {}{}; the device cannot be used any more",
                             watch_.suspects(), sync_ ? "" : " (FLAME_SYNC=1 shows it at its op)");
    poison_ = message;
    poisoned_ = true;
  }
  fail<DeviceError>(Loc::current(), "{}", message);
}

CUresult CudaDevice::with_room(const std::function<CUresult()>& fn) {
  CUresult r = fn();
  if (r == CUDA_ERROR_OUT_OF_MEMORY && give_reserve()) r = fn();
  if (r != CUDA_ERROR_OUT_OF_MEMORY) return r;
  empty_cache();
  return fn();
}

void CudaDevice::need_well(const std::string& what) const {
  if (!poisoned_) return;
  std::lock_guard lock(poison_mutex_);
  fail<DeviceError>(Loc::current(), "{}: an earlier error stands: {}", what, poison_);
}

void CudaDevice::run(const Plan& plan, const Launch&, const Run& run) {
  need_well(plan.op);
  enter();
  struct Named {
    const std::string* const before;
    explicit Named(const std::string& op) : before(std::exchange(launching_, &op)) {}
    ~Named() { launching_ = before; }
  } const named(plan.op);
  if (StepGraph::taking(*this)) return plan.body(run);
  if (queue_.waiting() && !catch_up()) {
    plan.body(run);  // noted when its turn has come
  } else {
    const LaunchWatch::Noted noted(watch_, plan.op);
    plan.body(run);
  }
  if (sync_) synchronize();
}

void CudaDevice::set_direct(bool on) {
  may_wait_ = false;
  drain();
  memory_.set_direct(on);
  may_wait_ = !sync_ && !on;
}

void CudaDevice::wait() const {
  drain();
  wait_stream();
}
void CudaDevice::wait_stream() const {
  enter();
  const uint32_t launched = watch_.count();
  check(driver().cuStreamSynchronize(stream_), "synchronize");
  watch_.finished(launched);
}

// With FLAME_SYNC=1 recorded steps go launch by launch, so that an error shows at its op.
Ref<LaunchGraph> CudaDevice::capture(const GraphDesc& g) {
  if (sync_ || g.parts == 0) return {};
  settle();
  need_well("record");
  enter();
  return make_ref<StepGraph>(*this, g);
}
std::unique_lock<std::mutex> CudaDevice::capture_alone() {
  std::unique_lock lock(capture_mutex_);
  if (!capture_stream_) check(driver().cuStreamCreate(&capture_stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  return lock;
}
CUstream CudaDevice::raw_stream() const {
  const StepGraph* g = StepGraph::taking(*this);
  return g ? g->stream() : stream_;
}
void CudaDevice::start(const LaunchWatch::Names& names, CUgraphExec g) {
  need_well("record");
  drain();
  enter();
  const LaunchWatch::Noted noted(watch_, names);
  check(with_room([&] { return graph_refused() ? CUDA_ERROR_OUT_OF_MEMORY : driver().cuGraphLaunch(g, stream_); }),
        "a recorded step");
}

bool CudaDevice::capturing() const {
  if (StepGraph::taking(*this)) return true;
  drain();
  CUstreamCaptureStatus s = CU_STREAM_CAPTURE_STATUS_NONE;
  check(driver().cuStreamIsCapturing(stream_, &s), "cuStreamIsCapturing");
  return s != CU_STREAM_CAPTURE_STATUS_NONE;
}
bool CudaDevice::busy() const {
  if (queue_.waiting()) return true;
  enter();
  return driver().cuStreamQuery(stream_) == CUDA_ERROR_NOT_READY;
}
bool CudaDevice::uploading() const {
  enter();
  return driver().cuStreamQuery(copy_stream_) == CUDA_ERROR_NOT_READY;
}

size_t CudaDevice::driver_used() const {
  size_t free = 0, total = 0;
  if (!try_enter() || driver().cuMemGetInfo(&free, &total) != CUDA_SUCCESS) return 0;
  return free_at_start_ > free ? free_at_start_ - free : 0;
}
size_t CudaDevice::outside_cache() const {
  const size_t used = driver_used();
  return used - std::min(used, memory_.stats().reserved + reserved());
}
CudaDevice::Meter::Meter(CudaDevice& d) : device_(d), outermost_(d.meters_.fetch_add(1) == 0) {
  if (outermost_) before_ = d.outside_cache();
}
CudaDevice::Meter::~Meter() {
  if (outermost_)
    device_.library_bytes_ += static_cast<int64_t>(device_.outside_cache()) - static_cast<int64_t>(before_);
  device_.meters_.fetch_sub(1);
}

MemoryStats CudaDevice::memory_stats() const {
  MemoryStats s = memory_.stats();
  s.library = static_cast<size_t>(std::max<int64_t>(library_bytes_, 0));
  s.pinned = pinned_bytes_;
  return s;
}
void CudaDevice::synchronize() {
  wait();
  index_faults_.raise();
}

void* CudaDevice::allocate(size_t bytes, Loc where) {
  if (allocation_fails() || bytes > (size_t{1} << 47)) refuse(bytes, where);
  if (void* p = memory_.allocate(bytes, allocation_kind())) return p;
  // Free memory can go back to the driver only after what waits; buffers of finished uploads leave too.
  if (staged_ || queue_.waiting() || reserve_) {
    drain();
    give_reserve();
    if (staged_) empty_cache();
    if (void* p = memory_.allocate(bytes, allocation_kind())) return p;
  }
  refuse(bytes, where);
}
void CudaDevice::deallocate(void* p, size_t) noexcept {
  if (StepGraph* g = StepGraph::taking(*this)) g->keep(p);  // its launches use what they took while they were captured
  else memory_.deallocate(p);
}

std::string CudaDevice::memory_report() const {
  size_t free = 0, total = 0;
  enter();
  driver().cuMemGetInfo(&free, &total);
  const MemoryStats s = memory_.stats();
  return fmt::format("{} free of {}, {} used by tensors, {} held from the driver{}, largest free block {}", free, total,
                     s.allocated, s.reserved, s.limit ? fmt::format(" of the {} allowed", s.limit) : "",
                     memory_.largest_free());
}
void CudaDevice::refuse(size_t bytes, Loc where) const {
  fail<OutOfMemory>(where, "out of memory on {}: requested {} bytes; {}", name(), bytes, memory_report());
}
void CudaDevice::refuse(const char* what) const {
  fail<OutOfMemory>(Loc::current(), "out of memory on {}: {} found none; {}", name(), what, memory_report());
}

}  // namespace flame::cuda
