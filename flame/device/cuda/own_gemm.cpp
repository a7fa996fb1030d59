// The own matrix product: any dtype and any strides, for what cuBLASLt does not take.
#include "flame/core/format.h"
#include "flame/device/cuda/device_gemm.h"
#include "flame/device/cuda/libraries.h"
#include "flame/device/kernel.h"

namespace flame::cuda {

DeviceGemm::DeviceGemm(const GemmProblem& p)
    : m(p.m),
      n(p.n),
      k(p.k),
      a_rs(p.a.rs),
      a_cs(p.a.cs),
      b_rs(p.b.rs),
      b_cs(p.b.cs),
      c_rs(p.c.rs),
      c_cs(p.c.cs),
      axes(p.batch.rank()) {
  if (p.batch.rank() > most_axes)
    fail<NotImplemented>(Loc::current(), "gemm: batches that need more than 6 axes on cuda");
  for (int i = 0; i < p.batch.rank(); ++i) {
    batch[i] = p.batch[i];
    a[i] = p.a.batch[i];
    b[i] = p.b.batch[i];
    c[i] = p.c.batch[i];
  }
}

Ref<Plan> own_gemm(Device& d, const GemmDesc& g) {
  const GemmProblem p = gemm_problem(g);
  if (numel(g.c.shape) == 0) return make_ref<Plan>("gemm", [](const Run&) {});
  const DeviceGemm q(p);
  const Ref<Kernel> k = d.kernel({"gemm",
                                  std::string(device_text("device/cuda/gemm.cu")),
                                  "gemm",
                                  {std::string("-DFLAME_T=") + device_type(p.dtype), "--fmad=false"}});
  constexpr int64_t tile = 32;
  const int64_t tiles = (p.m + tile - 1) / tile * ((p.n + tile - 1) / tile);
  return make_ref<Plan>("gemm", [k, q, tiles, batches = p.batches(), bias = g.bias](const Run& r) {
    // The grid's other axes end at 65,535.
    for (int64_t first = 0; first < batches; first += 65535)
      (*k)({.blocks = tiles, .y = std::min<int64_t>(batches - first, 65535)}, q, first, r.buffers[0], r.buffers[1],
           bias ? r.buffers[2] : nullptr, r.buffers[bias ? 3 : 2]);
  });
}

}  // namespace flame::cuda
