// Internal: one NVIDIA GPU as a Device: one context, one compute stream, its memory and its kernels.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "flame/device/cuda/driver.h"
#include "flame/device/cuda/faults.h"
#include "flame/device/cuda/memory.h"
#include "flame/device/kernel.h"

namespace flame::cuda {

class Libraries;

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int ordinal);  // DeviceError if it cannot be used
  ~CudaDevice() override;

  bool host_accessible() const override { return false; }
  void* allocate(size_t bytes, Loc where) override;
  void deallocate(void* p, size_t bytes) noexcept override;
  void copy_from_host(void* dst, const void* src, size_t bytes) override;
  void copy_to_host(void* dst, const void* src, size_t bytes) override;
  void synchronize() override;
  MemoryStats memory_stats() const override { return memory_.stats(); }
  void reset_peak_memory() override { memory_.reset_peak(); }
  void empty_cache() override { memory_.empty_cache(); }
  void copy_within(void* dst, const void* src, size_t bytes) override;
  void fill_bytes(void* dst, int byte, size_t bytes) override;
  Ref<Kernel> kernel(const KernelDesc& d) override;
  Ref<Plan> gemm(const GemmDesc& d) override;
  Ref<Plan> conv(const ConvDesc& d) override;
  Ref<Plan> attention(const AttentionDesc& d) override;

  CUstream stream() const { return stream_; }
  int arch() const { return arch_; }
  void enter() const;  // makes the context this thread's
  // DeviceError naming `what` unless r is success; an error that the context does not survive poisons the device.
  void check(CUresult r, const char* what) const;
  Libraries& libraries() { return *libraries_; }

 protected:
  void run(const Plan& plan, const Launch& l, const Run& run) override;

 private:
  struct Staging {
    void* host = nullptr;
    CUevent done = nullptr;
  };
  [[noreturn]] void refuse(size_t bytes, Loc where) const;
  Staging& staging();
  void wait() const;  // without a look at what kernels met

  CUdevice handle_ = 0;
  CUcontext context_ = nullptr;
  CUstream stream_ = nullptr;
  int arch_ = 0;
  bool sync_ = false;  // FLAME_SYNC=1: wait after every launch, so that an error shows at its op
  Allocator memory_;
  std::mutex copy_mutex_, kernel_mutex_;
  Staging staging_[2];
  int next_staging_ = 0;
  std::unordered_map<std::string, CUmodule> modules_;
  std::unordered_map<std::string, Ref<Kernel>> kernels_;
  std::unique_ptr<Libraries> libraries_;
  Faults faults_{*this};
  mutable std::mutex poison_mutex_;
  mutable std::string poison_;
  mutable std::atomic<bool> poisoned_{false};
  std::atomic<const char*> last_{"nothing"};  // the op launched last
};

}  // namespace flame::cuda
