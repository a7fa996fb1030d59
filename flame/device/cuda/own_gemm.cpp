// The own matrix product: any dtype and any strides, for what cuBLASLt does not take.
#include "flame/core/format.h"
#include "flame/device/cpu/gemm.h"
#include "flame/device/cuda/libraries.h"
#include "flame/device/kernel.h"

namespace flame::cuda {
namespace {
constexpr int most_batch_axes = 6;

// As in gemm.cu.
struct Problem {
  int64_t m, n, k;
  int64_t a_rs, a_cs, b_rs, b_cs, c_rs, c_cs;
  int64_t axes;
  int64_t batch[most_batch_axes], a[most_batch_axes], b[most_batch_axes], c[most_batch_axes];
};
}  // namespace

Ref<Plan> own_gemm(Device& d, const GemmDesc& g) {
  const GemmProblem p = gemm_problem(g);
  if (numel(g.c.shape) == 0) return make_ref<Plan>("gemm", [](const Run&) {});
  if (p.batch.rank() > most_batch_axes)
    fail<NotImplemented>(Loc::current(), "gemm: batches that need more than 6 axes on cuda");
  Problem q{p.m, p.n, p.k, p.a.rs, p.a.cs, p.b.rs, p.b.cs, p.c.rs, p.c.cs, p.batch.rank(), {}, {}, {}, {}};
  for (int i = 0; i < p.batch.rank(); ++i) {
    q.batch[i] = p.batch[i];
    q.a[i] = p.a.batch[i];
    q.b[i] = p.b.batch[i];
    q.c[i] = p.c.batch[i];
  }
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
