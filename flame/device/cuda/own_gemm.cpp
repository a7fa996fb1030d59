// Own matrix products: one for any dtype and any strides, for what cuBLASLt does not take, and one for small products on tensor
// cores, where a launch counts for more than the multiplications.
#include <optional>

#include "flame/core/format.h"
#include "flame/device/cuda/device_gemm.h"
#include "flame/device/cuda/libraries.h"
#include "flame/device/kernel.h"
#include "flame/device/small_tiles.h"

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
                                  std::string(own_text("device/cuda/gemm.cu")),
                                  "gemm",
                                  {std::string("-DFLAME_T=") + device_type(p.dtype),
                                   std::string("-DFLAME_OUT=") + device_type(p.c_dtype), "--fmad=false"}});
  constexpr int64_t tile = 32;
  const int64_t tiles = (p.m + tile - 1) / tile * ((p.n + tile - 1) / tile);
  return make_ref<Plan>("gemm", [k, q, tiles, batches = p.batches(), bias = g.bias, add = g.add](const Run& r) {
    const int c = 2 + bias + add;
    // The grid's other axes end at 65,535.
    for (int64_t first = 0; first < batches; first += 65535)
      (*k)({.blocks = tiles, .y = std::min<int64_t>(batches - first, 65535)}, q, first, r.buffers[0], r.buffers[1],
           bias ? r.buffers[2] : nullptr, add ? r.buffers[c - 1] : nullptr, r.buffers[c]);
  });
}

namespace {

// How gemm_small.cu reads an operand whose other axis has `extent` places.
struct Reading {
  bool along_k = false;
  int64_t step = 0;
  int pack = 1;

  static std::optional<Reading> of(int64_t by_place, int64_t by_k, int64_t extent, int64_t k) {
    Reading r;
    r.along_k = by_k == 1 || k == 1;
    if (!r.along_k && by_place != 1 && extent != 1) return {};
    r.step = r.along_k ? by_place : by_k;
    if (r.step % 4 == 0 && (r.along_k ? k : extent) % 4 == 0) r.pack = 4;
    return r;
  }
};

// As in gemm_small.cu.
struct Small {
  int32_t m, n, k, a_step, b_step;
};

}  // namespace

Ref<Plan> small_gemm(Device& d, const GemmDesc& g) {
  constexpr double most = 1 << 28;  // multiplications; well below, tensor cores wait for memory
  const GemmProblem p = gemm_problem(g);
  const bool gelu = g.activation == Activation::gelu_tanh || g.slope == Activation::gelu_tanh;
  if (p.dtype != DType::f32 || !g.tf32 || g.add || gelu || p.batch.rank() > 0 || p.multiplications() > most ||
      p.m == 0 || p.n == 0 || p.k == 0 || (p.c.cs != 1 && p.n > 1) || (p.c.rs != p.n && p.m > 1))
    return {};
  const auto a = Reading::of(p.a.rs, p.a.cs, p.m, p.k), b = Reading::of(p.b.cs, p.b.rs, p.n, p.k);
  if (!a || !b) return {};
  constexpr int64_t far = int64_t{1} << 31;  // numbers
  if (std::max(p.m, p.k) * std::abs(a->step) >= far || std::max(p.n, p.k) * std::abs(b->step) >= far ||
      p.m * p.n >= far)
    return {};
  constexpr int deepest = 4;
  const SmallTiles tiles(SmallTiles::of(p.m, p.n, 32), p.k, deepest);
  const bool slope = g.slope != Activation::none;
  const int relu = slope ? 3 : g.activation == Activation::none ? 0 : g.keep ? 2 : 1;
  const auto option = [](const char* name, int value) { return fmt::format("-DFLAME_{}={}", name, value); };
  const Ref<Kernel> kernel =
      d.kernel({"gemm_small",
                std::string(own_text("device/cuda/gemm_small.cu")),
                "gemm_small",
                {option("A", a->along_k), option("A_PACK", a->pack), option("B", b->along_k), option("B_PACK", b->pack),
                 option("BIAS", g.bias), option("RELU", relu), option("SUMS", g.sums), option("TILE", tiles.tile),
                 option("WARPS", tiles.warps), option("DEPTH", tiles.depth), "--fmad=false"}});
  const auto small_of = [](int64_t n) { return static_cast<int32_t>(n); };
  const Small small{small_of(p.m), small_of(p.n), small_of(p.k), small_of(a->step), small_of(b->step)};
  const Grid grid{.blocks = SmallTiles::of(p.m, p.n, tiles.tile), .threads = 32 * tiles.warps};
  return make_ref<Plan>("gemm", [=, bias = g.bias, keep = g.keep, sums = g.sums](const Run& r) {
    const size_t kept = bias ? 3 : 2, c = kept + slope, last = c + 1;
    (*kernel)(grid, small, r.buffers[0], r.buffers[1], bias ? r.buffers[2] : nullptr, r.buffers[c],
              slope  ? r.buffers[kept]
              : keep ? r.buffers[last]
                     : nullptr,
              sums ? r.buffers[last] : nullptr);
  });
}

}  // namespace flame::cuda
