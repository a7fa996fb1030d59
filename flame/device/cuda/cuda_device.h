// Internal: one NVIDIA GPU as a Device: one context, one compute stream, its memory and its kernels.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "flame/device/cuda/driver.h"
#include "flame/device/cuda/index_faults.h"
#include "flame/device/cuda/kernels.h"
#include "flame/device/cuda/launch_queue.h"
#include "flame/device/cuda/launch_watch.h"
#include "flame/device/cuda/memory.h"
#include "flame/device/kernel.h"

namespace flame::cuda {

class StepGraph;
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
  bool fuses() const override { return true; }
  Ref<LaunchGraph> capture(const GraphDesc& g) override;

  CUstream stream() const {  // with all on it that was launched
    drain();
    return raw_stream();
  }
  CUstream raw_stream() const;                     // where this thread's launches go
  CUstream own_stream() const { return stream_; }  // even while this thread's launches are captured
  CUcontext context() const { return context_; }
  int arch() const { return arch_; }
  int shared_of_block() const { return shared_of_block_; }  // bytes of shared memory, at most
  int processors() const { return processors_; }
  const std::string& gpu_name() const { return gpu_name_; }
  bool capturing() const;
  // For graphs: one is captured at a time, on a stream of its own; they are launched behind what the device was given.
  std::unique_lock<std::mutex> capture_alone();
  CUstream capture_stream() const { return capture_stream_; }
  void start(const LaunchWatch::Names& names, CUgraphExec g);
  static bool graph_refused();  // a failure that a test planted
  Allocator& memory() { return memory_; }
  // One driver allocation a tensor, exactly as large. Then nothing waits for kernels: memory leaves when a tensor does.
  void set_direct(bool on);
  // fn, which takes memory of the driver's; once more with what was set aside, and with the cache emptied, if there was none.
  CUresult with_room(const std::function<CUresult()>& fn);
  // OutOfMemory with the report, for memory that a library wanted.
  [[noreturn]] void refuse(const char* what) const;
  void enter() const;  // makes the context this thread's
  bool try_enter() const noexcept;
  // DeviceError naming `what` unless r is success; an error that the context does not survive poisons the device.
  void check(CUresult r, const char* what) const;
  Libraries& libraries() { return *libraries_; }
  bool busy() const;           // work is under way on the compute stream
  bool uploading() const;      // on the copy stream
  size_t driver_used() const;  // bytes that left the device's free memory since this device was opened

  // Launches whose kernels are still being compiled wait in a queue, and behind them everything else that goes onto the
  // stream; a kernel's arguments are read when it is launched. Whatever looks at the stream from outside drains it first.
  bool must_wait(const CudaKernel& k);
  // Whether anything waits, or is being done now that waited: memory that is free may still be read by what waits.
  bool work_waits() const { return queue_.size() > 0; }
  void later(std::function<void()> fn, LaunchQueue::Keep keep = LaunchQueue::Keep::no);
  // fn now, or behind what waits.
  void in_order(std::function<void()> fn, LaunchQueue::Keep keep = LaunchQueue::Keep::no);
  // A plan's body that takes its turn as a whole; it reads so many buffers and scalars, and none of the host's memory.
  std::function<void(const Run&)> in_order(size_t buffers, size_t scalars, std::function<void(const Run&)> body);
  void drain() const;
  // fn() gives a plan of a library's. It may hold locks that work in the queue wants, so nothing is drained in it; where it finds no
  // memory while something waits, it is tried again after that.
  template <class F>
  Ref<Plan> prepared(F fn) {
    try {
      const Direct direct(*this);
      return fn();
    } catch (const OutOfMemory&) {
      if (!queue_.waiting()) throw;
    }
    drain();
    const Direct direct(*this);
    return fn();
  }
  void settle();
  void attach_faults(CUmodule m, const std::string& cubin) { index_faults_.attach(m, cubin); }
  struct Direct : LaunchQueue::Direct {
    explicit Direct(const CudaDevice& d) : LaunchQueue::Direct(d.queue_) {}
  };
  static std::vector<CudaDevice*> opened();

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
  std::string memory_report() const;
  void* pinned(size_t bytes);
  Staging& staging();
  void wait() const;         // without a look at what kernels met
  void wait_stream() const;  // for what is on it, not for what is still to go there
  bool set_aside();
  bool give_reserve() const;
  size_t reserved() const;
  bool catch_up();
  void settled() const;
  void need_well(const std::string& what) const;
  Slot take_slot(size_t bytes, Loc where);
  void free_slot(const Slot& s);
  size_t outside_cache() const;  // memory of the device in use that is not the allocator's

  CUdevice handle_ = 0;
  CUcontext context_ = nullptr;
  CUstream stream_ = nullptr, copy_stream_ = nullptr, capture_stream_ = nullptr;
  int arch_ = 0, shared_of_block_ = 0, processors_ = 0;
  std::string gpu_name_;
  size_t free_at_start_ = 0;
  bool sync_ = false;  // FLAME_SYNC=1: wait after every launch, so that an error shows at its op
  Allocator memory_;
  std::mutex copy_mutex_, kernel_mutex_, upload_mutex_, peer_mutex_, capture_mutex_;
  Staging staging_[2];
  int next_staging_ = 0;
  std::multimap<size_t, Slot> free_slots_;
  std::map<CudaDevice*, bool> peers_;  // whose memory this context may read
  CUevent peer_events_[2]{};
  std::unordered_map<std::string, std::shared_ptr<Module>> modules_;
  std::unordered_map<std::string, Ref<CudaKernel>> kernels_;
  std::vector<Ref<CudaKernel>> unloaded_;  // were asked for while they were compiled
  mutable LaunchQueue queue_;
  std::atomic<int> compiling_{0};
  std::atomic<bool> unsettled_{false};  // there are any
  std::atomic<bool> may_wait_{true};
  mutable std::atomic<CUdeviceptr> reserve_{0};
  static thread_local const std::string* launching_;  // the op whose plan this thread runs
  std::unique_ptr<Libraries> libraries_;
  IndexFaults index_faults_{*this};
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
