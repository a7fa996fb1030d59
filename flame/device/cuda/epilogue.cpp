// Products whose activation, slope or sums are done by kernels of ours: where cuBLASLt has no algorithm for it.
#include <array>

#include "flame/device/cpu/gemm.h"
#include "flame/device/cuda/libraries.h"
#include "flame/device/cuda/tuning.h"
#include "flame/device/kernel.h"

namespace flame::cuda {

bool has_epilogue(const GemmDesc& g) {
  return g.activation != Activation::none || g.slope != Activation::none || g.sums;
}
GemmDesc without_epilogue(const GemmDesc& g) {
  return {.a = g.a, .b = g.b, .c = g.c, .bias = g.bias, .tf32 = g.tf32, .add = g.add};
}

Ref<Plan> unfused_gemm(Device& d, const GemmDesc& g, const Ref<Plan>& product) {
  const auto kernel = [&](const char* entry, Activation a) {
    return d.kernel({std::string("gemm ") + entry,
                     std::string(device_text("device/cuda/epilogue.cu")),
                     entry,
                     {std::string("-DFLAME_T=") + device_type(g.c.dtype),
                      std::string("-DFLAME_RELU=") + (a == Activation::relu ? "1" : "0"),
                      std::string("-DFLAME_IN_DOUBLE=") + (size_of(g.c.dtype) == 2 ? "0" : "1"), "--fmad=false"}});
  };
  const Activation a = g.activation != Activation::none ? g.activation : g.slope;
  const int64_t columns = g.c.shape.back(), rows = columns ? numel(g.c.shape) / columns : 0;
  const int64_t groups = a == Activation::relu ? (columns + 127) / 128 * 16 : (columns + 7) / 8;
  Ref<Kernel> through, sums;
  if (a != Activation::none) through = kernel(g.activation != Activation::none ? "activate" : "slopes", a);
  if (g.sums) sums = kernel("row_sums", Activation::none);
  return make_ref<Plan>(
      "gemm",
      [=, bias = g.bias, given = g.slope != Activation::none, keep = g.keep, m = g.a](const Run& r) {
        const int before = bias ? 3 : 2, c = before + (given ? 1 : 0);
        const std::array<void*, 4> buffers{r.buffers[0], r.buffers[1], r.buffers[bias ? 2 : c], r.buffers[c]};
        product->body({buffers.data(), r.scalars, r.workspace});
        void* kept = given ? r.buffers[before] : keep ? r.buffers[c + 1] : nullptr;
        const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
        tuning_stats().epilogue_kernels += (through ? 1 : 0) + (sums ? 1 : 0);
        if (through && rows > 0)
          (*through)({.blocks = blocks_for(rows * groups, 256)}, r.buffers[c], kept, rows, columns, groups,
                     columns % 8 == 0 && aligned(r.buffers[c]) && aligned(kept));
        if (sums && m.shape[0] > 0)
          (*sums)({.blocks = blocks_for(m.shape[0], 32)}, r.buffers[0], r.buffers[c + 1], m.shape[0], m.shape[1],
                  m.strides[0], m.strides[1]);
      },
      product->workspace);
}

}  // namespace flame::cuda
