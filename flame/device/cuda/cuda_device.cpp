// The GPU: memory, copies through pinned staging, kernels, and the errors of all of them.
#include "flame/device/cuda/cuda_device.h"

#include <cstdlib>
#include <cstring>

#include "flame/core/format.h"
#include "flame/device/cuda/compiler.h"
#include "flame/device/cuda/libraries.h"

namespace flame::cuda {
namespace {

constexpr size_t staging_bytes = size_t{8} << 20;

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
  }
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
    device_.check(driver().cuLaunchKernel(function_, static_cast<unsigned>(g.blocks), static_cast<unsigned>(g.y),
                                          static_cast<unsigned>(g.z), static_cast<unsigned>(g.threads),
                                          static_cast<unsigned>(g.threads_y), static_cast<unsigned>(g.threads_z),
                                          static_cast<unsigned>(g.shared), device_.stream(), nullptr, extra),
                  name_.c_str());
  }

 private:
  CudaDevice& device_;
  std::string name_;
  CUfunction function_;
  size_t parameter_bytes_ = 0;
};

thread_local CUcontext entered = nullptr;

}  // namespace

CudaDevice::CudaDevice(int ordinal)
    : Device(Kind::cuda, fmt::format("cuda:{}", ordinal)),
      memory_(
          [this](size_t bytes) -> void* {
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
  check(d.cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  const char* sync = std::getenv("FLAME_SYNC");
  sync_ = sync && *sync == '1';
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
  if (sticky(r)) {
    message += fmt::format(
        "; the launch that caused it is '{}' or one before it (FLAME_SYNC=1 tells), and the device "
        "cannot be used any more",
        last_.load());
    std::lock_guard lock(poison_mutex_);
    if (!poisoned_) poison_ = message;
    poisoned_ = true;
  }
  fail<DeviceError>(Loc::current(), "{}", message);
}

void CudaDevice::run(const Plan& plan, const Launch&, const Run& run) {
  if (poisoned_) {
    std::lock_guard lock(poison_mutex_);
    fail<DeviceError>(Loc::current(), "{}: an earlier error stands: {}", plan.op, poison_);
  }
  enter();
  last_ = plan.op.c_str();
  plan.body(run);
  if (sync_) synchronize();
}

void CudaDevice::wait() const {
  enter();
  check(driver().cuStreamSynchronize(stream_), "synchronize");
}
void CudaDevice::synchronize() {
  wait();
  faults_.raise();
}

void* CudaDevice::allocate(size_t bytes, Loc where) {
  if (bytes > (size_t{1} << 47)) refuse(bytes, where);
  if (void* p = memory_.allocate(bytes)) return p;
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
                    "driver, largest free block {}",
                    name(), bytes, free, total, s.allocated, s.reserved, memory_.largest_free());
}

CudaDevice::Staging& CudaDevice::staging() {
  Staging& s = staging_[next_staging_];
  next_staging_ = 1 - next_staging_;
  if (!s.host) {
    check(driver().cuMemAllocHost(&s.host, staging_bytes), "pinned memory");
    check(driver().cuEventCreate(&s.done, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
  } else {
    check(driver().cuEventSynchronize(s.done), "copy");
  }
  return s;
}

void CudaDevice::copy_from_host(void* dst, const void* src, size_t bytes) {
  enter();
  std::lock_guard lock(copy_mutex_);
  for (size_t at = 0; at < bytes; at += staging_bytes) {
    const size_t n = std::min(staging_bytes, bytes - at);
    Staging& s = staging();
    std::memcpy(s.host, static_cast<const char*>(src) + at, n);
    check(driver().cuMemcpyHtoDAsync(reinterpret_cast<CUdeviceptr>(dst) + at, s.host, n, stream_), "copy from host");
    check(driver().cuEventRecord(s.done, stream_), "cuEventRecord");
  }
}
void CudaDevice::copy_to_host(void* dst, const void* src, size_t bytes) {
  enter();
  std::lock_guard lock(copy_mutex_);
  for (size_t at = 0; at < bytes; at += staging_bytes) {
    const size_t n = std::min(staging_bytes, bytes - at);
    Staging& s = staging();
    check(driver().cuMemcpyDtoHAsync(s.host, reinterpret_cast<CUdeviceptr>(src) + at, n, stream_), "copy to host");
    check(driver().cuStreamSynchronize(stream_), "copy to host");
    std::memcpy(static_cast<char*>(dst) + at, s.host, n);
  }
  faults_.raise();
}
void CudaDevice::copy_within(void* dst, const void* src, size_t bytes) {
  if (bytes == 0) return;
  enter();
  check(driver().cuMemcpyDtoDAsync(reinterpret_cast<CUdeviceptr>(dst), reinterpret_cast<CUdeviceptr>(src), bytes,
                                   stream_),
        "copy");
}
void CudaDevice::fill_bytes(void* dst, int byte, size_t bytes) {
  if (bytes == 0) return;
  enter();
  check(driver().cuMemsetD8Async(reinterpret_cast<CUdeviceptr>(dst), static_cast<unsigned char>(byte), bytes, stream_),
        "fill");
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
    CUmodule m = nullptr;
    check(driver().cuModuleLoadData(&m, cubin.data()), d.name.c_str());
    faults_.attach(m);
    module = modules_.emplace(std::move(key), m).first;
  }
  CUfunction f = nullptr;
  const CUresult found = driver().cuModuleGetFunction(&f, module->second, d.entry.c_str());
  if (found == CUDA_ERROR_NOT_FOUND)
    throw KernelError(fmt::format("{}: the text has no extern \"C\" __global__ function '{}'", d.name, d.entry));
  check(found, d.name.c_str());
  return kernels_.emplace(full, make_ref<CudaKernel>(*this, d.name, f)).first->second;
}

}  // namespace flame::cuda
