// Internal: a device without a GPU that compiles every kernel it is asked for and runs none: how a machine without a GPU
// checks all device code, for any architecture. Its memory is the host's and what is read from it means nothing.
#pragma once
#include "flame/device/cuda/launch_queue.h"
#include "flame/device/device.h"
#include "flame/device/kernel.h"

namespace flame::cuda {

class DryDevice final : public Device {
 public:
  explicit DryDevice(int arch);
  bool host_accessible() const override { return false; }
  void* allocate(size_t bytes, Loc where) override;
  void deallocate(void* p, size_t bytes) noexcept override;
  void copy_from_host(void* dst, const void* src, size_t bytes) override;
  void copy_to_host(void* dst, const void* src, size_t bytes) override;
  void synchronize() override;
  MemoryStats memory_stats() const override { return {}; }
  void reset_peak_memory() override {}
  void empty_cache() override {}
  Ref<Kernel> kernel(const KernelDesc& d) override;
  // Kernels are compiled beside the program, as a GPU's are, and launches of them wait in its queue; `launched` gets the names of
  // kernels in the order of their turns. For tests; null: compiled at once.
  void set_later(std::vector<std::string>* launched);
  Ref<Plan> gemm(const GemmDesc& d) override;
  Ref<Plan> conv(const ConvDesc& d) override;
  bool fuses() const override { return true; }

 protected:
  void run(const Plan& plan, const Launch&, const Run& run) override { plan.body(run); }

 private:
  int arch_;
  LaunchQueue queue_;
  std::vector<std::string>* launched_ = nullptr;
};

}  // namespace flame::cuda
