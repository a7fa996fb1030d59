// The CPU device: host memory from a caching allocator, kernels run at once on the calling thread and its team.
#pragma once
#include "flame/device/device.h"
#include "flame/device/planted.h"

namespace flame {

class CpuDevice : public Device {
 public:
  CpuDevice() : CpuDevice(Kind::cpu, "cpu") {}
  bool host_accessible() const override { return true; }
  void* allocate(size_t bytes, Loc where) override;
  void deallocate(void* p, size_t bytes) noexcept override;
  void copy_from_host(void* dst, const void* src, size_t bytes) override;
  void copy_to_host(void* dst, const void* src, size_t bytes) override;
  void synchronize() override {}
  MemoryStats memory_stats() const override;
  void reset_peak_memory() override;
  void empty_cache() override;
  Ref<Plan> gemm(const GemmDesc& d) override;
  Ref<Plan> conv(const ConvDesc& d) override;

 protected:
  CpuDevice(Kind kind, std::string name) : Device(kind, std::move(name)) {}
  void run(const Plan& plan, const Launch&, const Run& run) override { plan.body(run); }
};

}  // namespace flame
