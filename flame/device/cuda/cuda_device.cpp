// The GPU: memory, kernels, and the errors of all of them. Copies are in transfers.cpp.
#include "flame/device/cuda/cuda_device.h"

#include <algorithm>
#include <cstdlib>

#include "flame/core/format.h"
#include "flame/device/cuda/compiler.h"
#include "flame/device/cuda/libraries.h"
#include "flame/device/faults.h"

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

class CudaKernel final : public Kernel {
 public:
  CudaKernel(CudaDevice& d, std::string name, CUfunction f) : device_(d), name_(std::move(name)), function_(f) {
    size_t at = 0, size = 0;
    for (size_t i = 0; driver().cuFuncGetParamInfo(f, i, &at, &size) == CUDA_SUCCESS; ++i) parameter_bytes_ = at + size;
    int in_text = 0;
    device_.check(driver().cuFuncGetAttribute(&in_text, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, f), name_.c_str());
    most_shared_ = d.shared_of_block() - in_text;
  }
  int most_shared() const override { return most_shared_; }
  void launch(const Grid& g, std::span<const std::byte> arguments) const override {
    constexpr int without_asking = 48 << 10;  // of shared memory
    if (g.shared > without_asking)
      device_.check(driver().cuFuncSetAttribute(function_, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, g.shared),
                    name_.c_str());
    size_t bytes = arguments.size();
    if (bytes != parameter_bytes_)
      throw KernelError(
          fmt::format("{}: the kernel's parameters are {} bytes, the arguments {}", name_, parameter_bytes_, bytes));
    void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, const_cast<std::byte*>(arguments.data()),
                     CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
    const auto go = [&] {
      return driver().cuLaunchKernel(function_, static_cast<unsigned>(g.blocks), static_cast<unsigned>(g.y),
                                     static_cast<unsigned>(g.z), static_cast<unsigned>(g.threads),
                                     static_cast<unsigned>(g.threads_y), static_cast<unsigned>(g.threads_z),
                                     static_cast<unsigned>(g.shared), device_.stream(), nullptr, extra);
    };
    if (used_.load(std::memory_order_relaxed)) return device_.check(go(), name_.c_str());
    const CudaDevice::Meter meter(device_);  // the first launch may load the kernel and its stack
    device_.check(device_.with_room(go), name_.c_str());
    used_ = true;
  }

 private:
  mutable std::atomic<bool> used_{false};
  CudaDevice& device_;
  const std::string name_;
  const CUfunction function_;
  size_t parameter_bytes_ = 0;
  int most_shared_ = 0;
};

thread_local CUcontext entered = nullptr;

struct Faults {
  std::mutex mutex;
  int64_t until = 0, count = 0, fired = 0;
  bool next() {
    std::lock_guard lock(mutex);
    if (count == 0 || --until > 0) return false;
    --count;
    ++fired;
    return true;
  }
} faults;

}  // namespace

void fail_driver_allocation(int64_t nth, int64_t count) {
  std::lock_guard lock(faults.mutex);
  faults.until = nth;
  faults.count = nth > 0 ? count : 0;
}
int64_t driver_failures() {
  std::lock_guard lock(faults.mutex);
  return faults.fired;
}

CudaDevice::CudaDevice(int ordinal)
    : Device(Kind::cuda, fmt::format("cuda:{}", ordinal)),
      memory_(
          [this](size_t bytes) -> void* {
            if (faults.next()) return nullptr;
            enter();
            CUdeviceptr p = 0;
            const CUresult r = driver().cuMemAlloc(&p, bytes);
            if (r == CUDA_ERROR_OUT_OF_MEMORY) return nullptr;
            check(r, "allocation");
            return reinterpret_cast<void*>(p);
          },
          [this](void* p) {
            enter();
            driver().cuMemFree(reinterpret_cast<CUdeviceptr>(p));
          },
          [this] { wait(); }) {
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
  memory_.set_direct(set("FLAME_CUDA_DIRECT"));
  size_t total = 0;
  check(d.cuMemGetInfo(&free_at_start_, &total), "cuMemGetInfo");
  libraries_ = std::make_unique<Libraries>(*this);
}
CudaDevice::~CudaDevice() = default;  // lives as long as the process; the driver cleans up

void CudaDevice::enter() const {
  if (entered == context_) return;
  check(driver().cuCtxSetCurrent(context_), "cuCtxSetCurrent");
  entered = context_;
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
  if (r != CUDA_ERROR_OUT_OF_MEMORY) return r;
  empty_cache();
  return fn();
}

void CudaDevice::run(const Plan& plan, const Launch&, const Run& run) {
  if (poisoned_) {
    std::lock_guard lock(poison_mutex_);
    fail<DeviceError>(Loc::current(), "{}: an earlier error stands: {}", plan.op, poison_);
  }
  enter();
  watch_.launching(plan.op);
  plan.body(run);
  watch_.launched();
  if (sync_) synchronize();
}

void CudaDevice::wait() const {
  enter();
  const uint32_t launched = watch_.count();
  check(driver().cuStreamSynchronize(stream_), "synchronize");
  watch_.finished(launched);
}

bool CudaDevice::capturing() const {
  CUstreamCaptureStatus s = CU_STREAM_CAPTURE_STATUS_NONE;
  check(driver().cuStreamIsCapturing(stream_, &s), "cuStreamIsCapturing");
  return s != CU_STREAM_CAPTURE_STATUS_NONE;
}
bool CudaDevice::busy() const {
  enter();
  return driver().cuStreamQuery(stream_) == CUDA_ERROR_NOT_READY;
}
bool CudaDevice::uploading() const {
  enter();
  return driver().cuStreamQuery(copy_stream_) == CUDA_ERROR_NOT_READY;
}

size_t CudaDevice::driver_used() const {
  enter();
  size_t free = 0, total = 0;
  driver().cuMemGetInfo(&free, &total);
  return free_at_start_ > free ? free_at_start_ - free : 0;
}
size_t CudaDevice::outside_cache() const {
  const size_t used = driver_used();
  return used - std::min(used, memory_.stats().reserved);
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
  faults_.raise();
}

void* CudaDevice::allocate(size_t bytes, Loc where) {
  if (allocation_fails() || bytes > (size_t{1} << 47)) refuse(bytes, where);
  if (void* p = memory_.allocate(bytes, allocation_kind())) return p;
  if (staged_) {  // buffers of finished uploads leave too
    empty_cache();
    if (void* p = memory_.allocate(bytes, allocation_kind())) return p;
  }
  refuse(bytes, where);
}
void CudaDevice::deallocate(void* p, size_t) noexcept { memory_.deallocate(p); }

void CudaDevice::refuse(size_t bytes, Loc where) const {
  size_t free = 0, total = 0;
  enter();
  driver().cuMemGetInfo(&free, &total);
  const MemoryStats s = memory_.stats();
  fail<OutOfMemory>(where,
                    "out of memory on {}: requested {} bytes; {} free of {}, {} used by tensors, {} held from the "
                    "driver{}, largest free block {}",
                    name(), bytes, free, total, s.allocated, s.reserved,
                    s.limit ? fmt::format(" of the {} allowed", s.limit) : "", memory_.largest_free());
}

Ref<Kernel> CudaDevice::kernel(const KernelDesc& d) {
  std::string key;
  for (const std::string& o : d.options) key += o + '\n';
  key += d.text;
  const std::string full = d.entry + '\n' + key;
  std::lock_guard lock(kernel_mutex_);
  if (const auto it = kernels_.find(full); it != kernels_.end()) return it->second;
  enter();
  auto module = modules_.find(key);
  if (module == modules_.end()) {
    const std::string cubin = compile_cached(d.name, d.text, d.options, arch_);
    const Meter meter(*this);
    CUmodule m = nullptr;
    check(with_room([&] { return driver().cuModuleLoadData(&m, cubin.data()); }), d.name.c_str());
    faults_.attach(m);
    module = modules_.emplace(std::move(key), m).first;
  }
  const Meter meter(*this);
  CUfunction f = nullptr;
  const CUresult found = with_room([&] { return driver().cuModuleGetFunction(&f, module->second, d.entry.c_str()); });
  if (found == CUDA_ERROR_NOT_FOUND)
    throw KernelError(fmt::format("{}: the text has no extern \"C\" __global__ function '{}'", d.name, d.entry));
  check(found, d.name.c_str());
  return kernels_.emplace(full, make_ref<CudaKernel>(*this, d.name, f)).first->second;
}

}  // namespace flame::cuda
