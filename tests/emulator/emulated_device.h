// A GPU of the tests: kernels are the texts that a GPU would get, run by threads.h; products and convolutions are the CPU's, since it
// emulates kernels and not libraries. Memory ends where a tensor ends: an access beyond is an error, and what
// is written just before or behind one is found after the launch.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "flame/device/cpu/cpu_device.h"
#include "flame/device/kernel.h"
#include "tests/emulator/compile.h"

namespace flame::emulated {

class EmulatedDevice final : public CpuDevice {
 public:
  explicit EmulatedDevice(std::string name) : CpuDevice(Kind::cuda, std::move(name)) {}
  bool host_accessible() const override { return false; }
  void* allocate(size_t bytes, Loc where) override;
  void deallocate(void* p, size_t bytes) noexcept override;
  void copy_to_host(void* dst, const void* src, size_t bytes) override;
  void synchronize() override;  // OutOfRange, if a kernel met a bad index
  MemoryStats memory_stats() const override { return {}; }
  void reset_peak_memory() override {}
  void empty_cache() override {}
  Ref<Kernel> kernel(const KernelDesc& d) override;
  Ref<Plan> gemm(const GemmDesc& d) override { return of_cpu(CpuDevice::gemm(d)); }
  Ref<Plan> conv(const ConvDesc& d) override { return of_cpu(CpuDevice::conv(d)); }
  uint64_t launches() const { return launches_; }  // of kernels

 private:
  friend class EmulatedKernel;
  struct Block {
    char* mapping;
    size_t mapped, bytes;
  };
  struct FaultRecord {  // as in device/fault.cuh
    const char* op;
    int64_t index, axis, size;
    uint32_t set;
  };
  struct FaultSink {
    uint32_t* claimed;
    FaultRecord* record;
  };
  static Ref<Plan> of_cpu(Ref<Plan> p);
  std::shared_ptr<Module> module(const KernelDesc& d);
  void launch_kernel(const KernelDesc& d, Module& m, const Grid& g, std::span<const std::byte> arguments);
  std::string overwritten() const;  // where somebody wrote beside a block, or nothing

  mutable std::mutex mutex_;
  std::map<void*, Block> blocks_;
  std::map<std::string, std::shared_ptr<Module>> modules_;
  uint32_t claimed_ = 0;
  FaultRecord fault_{};
  uint64_t launches_ = 0;
};

EmulatedDevice& emulated_device();  // "cuda:emulated"; made and registered at the first call

}  // namespace flame::emulated
