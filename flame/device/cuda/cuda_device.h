// Internal: one NVIDIA GPU as a Device: one context, one compute stream, its memory and its kernels.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "flame/device/cuda/driver.h"
#include "flame/device/cuda/faults.h"
#include "flame/device/cuda/launch_watch.h"
#include "flame/device/cuda/memory.h"
#include "flame/device/kernel.h"

namespace flame::cuda {

class Libraries;

// For tests: of the allocations that the driver is asked for from now, `count` fail, the `nth` (1 = the next) first.
void fail_driver_allocation(int64_t nth, int64_t count);
int64_t driver_failures();  // how many have failed

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int ordinal);  // DeviceError if it cannot be used
  ~CudaDevice() override;

  bool host_accessible() const override { return false; }
  void* allocate(size_t bytes, Loc where) override;
  void deallocate(void* p, size_t bytes) noexcept override;
  void copy_from_host(void* dst, const void* src, size_t bytes) override;
  void copy_to_host(void* dst, const void* src, size_t bytes) override;
  void copy_from_device(void* dst, Device& from, const void* src, size_t bytes) override;
  Upload upload(const void* src, size_t bytes, Loc where) override;
  void synchronize() override;
  MemoryStats memory_stats() const override;
  void reset_peak_memory() override { memory_.reset_peak(); }
  void empty_cache() override;
  void set_memory_limit(size_t bytes) override { memory_.set_limit(bytes); }
  void copy_within(void* dst, const void* src, size_t bytes) override;
  void fill_bytes(void* dst, int byte, size_t bytes) override;
  Ref<Kernel> kernel(const KernelDesc& d) override;
  Ref<Plan> gemm(const GemmDesc& d) override;
  Ref<Plan> conv(const ConvDesc& d) override;
  Ref<Plan> attention(const AttentionDesc& d) override;

  CUstream stream() const { return stream_; }
  int arch() const { return arch_; }
  int shared_of_block() const { return shared_of_block_; }  // bytes of shared memory, at most
  const std::string& gpu_name() const { return gpu_name_; }
  bool capturing() const;
  Allocator& memory() { return memory_; }
  // fn, which takes memory of the driver's; once more with the cache emptied if there was none.
  CUresult with_room(const std::function<CUresult()>& fn);
  void enter() const;  // makes the context this thread's
  // DeviceError naming `what` unless r is success; an error that the context does not survive poisons the device.
  void check(CUresult r, const char* what) const;
  Libraries& libraries() { return *libraries_; }
  bool busy() const;           // work is under way on the compute stream
  bool uploading() const;      // on the copy stream
  size_t driver_used() const;  // bytes that left the device's free memory since this device was opened

  // While one lives, memory that disappears from the device and is not the allocator's counts as the libraries'.
  class Meter {
   public:
    explicit Meter(CudaDevice& d);
    ~Meter();
    Meter(const Meter&) = delete;
    Meter& operator=(const Meter&) = delete;

   private:
    CudaDevice& device_;
    bool outermost_;
    size_t before_ = 0;
  };

 protected:
  void run(const Plan& plan, const Launch& l, const Run& run) override;

 private:
  struct Staging {
    void* host = nullptr;
    CUevent done = nullptr;
  };
  // One copy of upload(): memory of the device and the pinned memory it is filled from, used again and again.
  struct Slot {
    void *device = nullptr, *pinned = nullptr;
    size_t bytes = 0;
    CUevent copied = nullptr, consumed = nullptr;
  };
  [[noreturn]] void refuse(size_t bytes, Loc where) const;
  void* pinned(size_t bytes);
  Staging& staging();
  void wait() const;  // without a look at what kernels met
  Slot take_slot(size_t bytes, Loc where);
  void free_slot(const Slot& s);
  size_t outside_cache() const;  // memory of the device in use that is not the allocator's

  CUdevice handle_ = 0;
  CUcontext context_ = nullptr;
  CUstream stream_ = nullptr, copy_stream_ = nullptr;
  int arch_ = 0, shared_of_block_ = 0;
  std::string gpu_name_;
  size_t free_at_start_ = 0;
  bool sync_ = false;  // FLAME_SYNC=1: wait after every launch, so that an error shows at its op
  Allocator memory_;
  std::mutex copy_mutex_, kernel_mutex_, upload_mutex_, peer_mutex_;
  Staging staging_[2];
  int next_staging_ = 0;
  std::multimap<size_t, Slot> free_slots_;
  std::map<CudaDevice*, bool> peers_;  // whose memory this context may read
  CUevent peer_events_[2]{};
  std::unordered_map<std::string, CUmodule> modules_;
  std::unordered_map<std::string, Ref<Kernel>> kernels_;
  std::unique_ptr<Libraries> libraries_;
  Faults faults_{*this};
  mutable std::mutex poison_mutex_;
  mutable std::string poison_;
  mutable std::atomic<bool> poisoned_{false};
  mutable LaunchWatch watch_;
  std::atomic<int> meters_{0};
  std::atomic<int64_t> library_bytes_{0};
  std::atomic<size_t> pinned_bytes_{0};
  std::atomic<bool> staged_{false};  // upload() was used
};

}  // namespace flame::cuda
