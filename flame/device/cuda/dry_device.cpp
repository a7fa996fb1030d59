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
  if (bytes) std::memcpy(dst, src, bytes);
}
Ref<Kernel> DryDevice::kernel(const KernelDesc& d) {
  const auto [own, of] = share();
  bool there = d.text.find(d.entry) != std::string::npos;
  if (kernel_hash(d.name, d.text, d.options) % of == own && arch_ > 0)
    there = compile_cached(d.name, d.text, d.options, arch_).find(".text." + d.entry + '\0') != std::string::npos;
  if (!there)
    throw KernelError(fmt::format("{}: the text has no extern \"C\" __global__ function '{}'", d.name, d.entry));
  return make_ref<DryKernel>();
}
Ref<Plan> DryDevice::gemm(const GemmDesc& d) {
  if (has_epilogue(d)) return unfused_gemm(*this, d, gemm(without_epilogue(d)));
  if (is_float(d.c.dtype) && gemm_problem(d).batch.rank() > 1) gemm_batches_kernel(*this, d.c.dtype);
  return own_gemm(*this, d);
}
Ref<Plan> DryDevice::conv(const ConvDesc& d) {
  ask_conv_kernels(*this, d);
  return own_conv(*this, d);
}

}  // namespace flame::cuda
