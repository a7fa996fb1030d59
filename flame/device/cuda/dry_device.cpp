// The device that only compiles.
#include "flame/device/cuda/dry_device.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "flame/core/format.h"
#include "flame/device/cpu/gemm.h"
#include "flame/device/cuda/compiler.h"
#include "flame/device/cuda/libraries.h"

namespace flame::cuda {
namespace {

class DryKernel final : public Kernel {
 public:
  void launch(const Grid&, std::span<const std::byte>) const override {}
};
void need_entry(const KernelDesc& d, bool there) {
  if (!there)
    throw KernelError(fmt::format("{}: the text has no extern \"C\" __global__ function '{}'", d.name, d.entry));
}
bool has_entry(const std::string& cubin, const std::string& entry) {
  return cubin.find(".text." + entry + '\0') != std::string::npos;
}

class LaterKernel final : public Kernel {
 public:
  LaterKernel(KernelDesc d, int arch, LaunchQueue& q, std::vector<std::string>& launched)
      : desc_(std::move(d)),
        cubin_(compile_later(desc_.name, desc_.text, desc_.options, arch, [] {})),
        queue_(q),
        launched_(launched) {}
  void launch(const Grid&, std::span<const std::byte>) const override {
    queue_.push(desc_.name, [self = Ref<const LaterKernel>(this)] {
      need_entry(self->desc_, has_entry(self->cubin_.get(), self->desc_.entry));
      self->launched_.push_back(self->desc_.name);
    });
  }

 private:
  const KernelDesc desc_;
  const std::shared_future<std::string> cubin_;
  LaunchQueue& queue_;
  std::vector<std::string>& launched_;
};

// FLAME_KERNEL_SHARE=i/n compiles the kernels whose hash leaves i when divided by n; else all.
std::pair<uint64_t, uint64_t> share() {
  unsigned long long own = 0, of = 1;
  if (const char* given = std::getenv("FLAME_KERNEL_SHARE")) std::sscanf(given, "%llu/%llu", &own, &of);
  return {own, of};
}

}  // namespace

DryDevice::DryDevice(int arch) : Device(Kind::cuda, fmt::format("cuda:dry{}", arch)), arch_(arch) {}
void* DryDevice::allocate(size_t bytes, Loc) { return std::calloc(bytes + 1, 1); }
void DryDevice::deallocate(void* p, size_t) noexcept { std::free(p); }
void DryDevice::copy_from_host(void* dst, const void* src, size_t bytes) {
  if (bytes) std::memcpy(dst, src, bytes);
}
void DryDevice::copy_to_host(void* dst, const void* src, size_t bytes) {
  synchronize();
  if (bytes) std::memcpy(dst, src, bytes);
}
void DryDevice::synchronize() {
  queue_.drain([](const std::string&, const std::function<void()>& fn) { fn(); });
}
void DryDevice::set_later(std::vector<std::string>* launched) {
  synchronize();
  launched_ = launched;
}
Ref<Kernel> DryDevice::kernel(const KernelDesc& d) {
  if (launched_ && !d.at_once) return make_ref<LaterKernel>(d, arch_, queue_, *launched_);
  const auto [own, of] = share();
  bool there = d.text.find(d.entry) != std::string::npos;
  if (kernel_hash(d.name, d.text, d.options) % of == own && arch_ > 0)
    there = has_entry(compile_cached(d.name, d.text, d.options, arch_), d.entry);
  need_entry(d, there);
  return make_ref<DryKernel>();
}
Ref<Plan> DryDevice::gemm(const GemmDesc& d) {
  small_gemm(*this, d);
  if (has_epilogue(d)) return unfused_gemm(*this, d, gemm(without_epilogue(d)));
  if (is_float(d.c.dtype) && gemm_problem(d).batch.rank() > 1) gemm_batches_kernel(*this, d.c.dtype);
  return own_gemm(*this, d);
}
Ref<Plan> DryDevice::conv(const ConvDesc& d) {
  ask_conv_kernels(*this, d);
  return own_conv(*this, d);
}

}  // namespace flame::cuda
