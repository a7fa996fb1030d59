// Internal: a device without a GPU that compiles every kernel it is asked for and runs none: how a machine without a GPU
// checks all device code, for any architecture. Its memory is the host's and what is read from it means nothing.
#pragma once
#include "flame/device/kernel.h"
#include "flame/device/device.h"

namespace flame::cuda {

class DryDevice final : public Device {
 public:
  explicit DryDevice(int arch);
  bool host_accessible() const override { return false; }
  void* allocate(size_t bytes, Loc where) override;
  void deallocate(void* p, size_t bytes) noexcept override;
  void copy_from_host(void* dst, const void* src, size_t bytes) override;
  void copy_to_host(void* dst, const void* src, size_t bytes) override;
  void synchronize() override {}
  MemoryStats memory_stats() const override { return {}; }
  void reset_peak_memory() override {}
  void empty_cache() override {}
  Ref<Kernel> kernel(const KernelDesc& d) override;
  Ref<Plan> gemm(const GemmDesc& d) override;
  Ref<Plan> conv(const ConvDesc& d) override;
  bool fuses() const override { return true; }

 protected:
  void run(const Plan& plan, const Launch&, const Run& run) override { plan.body(run); }

 private:
  int arch_;
};

}  // namespace flame::cuda
