// 16-bit products on Hopper with gelu_tanh, its slope and sums of columns inside, by gemm_wide.cu: its operands as tensor maps,
// its tiles dealt out to as many blocks as the GPU has processors.
#include <algorithm>
#include <optional>

#include "flame/core/format.h"
#include "flame/device/cpu/gemm.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/epilogue.h"
#include "flame/device/cuda/libraries.h"
#include "flame/device/kernel.h"

namespace flame::cuda {
namespace {

// As in gemm_wide.cu.
constexpr int tile_rows = 128, chunk = 64, cluster = 2, box_columns = 64;
struct Wide {
  int32_t m, n, k;
};

// A matrix of which the copy engine fetches boxes; rows are what is contiguous.
struct Boxes {
  int64_t rows, row_length, row_step;
  int box_length, box_rows;
  CUtensorMap at(const CudaDevice& d, DType t, void* p) const {
    CUtensorMap map;
    const cuuint64_t sizes[] = {static_cast<cuuint64_t>(row_length), static_cast<cuuint64_t>(rows)},
                     steps[] = {static_cast<cuuint64_t>(row_step) * 2};
    const cuuint32_t box[] = {static_cast<cuuint32_t>(box_length), static_cast<cuuint32_t>(box_rows)}, each[] = {1, 1};
    d.check(driver().cuTensorMapEncodeTiled(
                &map, t == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, p,
                sizes, steps, box, each, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
            "cuTensorMapEncodeTiled");
    return map;
  }
};

}  // namespace

Ref<Plan> wide_gemm(CudaDevice& d, const GemmDesc& g, int columns) {
  constexpr double least = 1 << 28;  // multiplications; below, a launch counts for more
  constexpr int64_t most = int64_t{1} << 30;
  const bool slope = g.slope != Activation::none;
  if (d.arch() != 90 || size_of(g.c.dtype) != 2 || (slope ? g.slope : g.activation) != Activation::gelu_tanh ||
      (g.sums && !slope) || (slope && g.bias) || g.add)
    return {};
  const GemmProblem p = gemm_problem(g);
  const auto fits = [](int64_t step, int64_t length) { return step % 8 == 0 && step >= length; };
  const bool along_k = p.b.rs == 1 && fits(p.b.cs, p.k), along_n = p.b.cs == 1 && fits(p.b.rs, p.n);
  if (p.batch.rank() > 0 || p.multiplications() < least || std::max({p.m, p.n, p.k}) > most || p.a.cs != 1 ||
      !fits(p.a.rs, p.k) || !(along_k || along_n) || p.c.cs != 1 || p.c.rs != p.n || p.n % 8 != 0)
    return {};
  const int stages = columns == 256 ? 3 : 4, finishers = columns == 256 ? 3 : 7;
  const auto option = [](const char* name, int value) { return fmt::format("-DFLAME_{}={}", name, value); };
  const Ref<Kernel> kernel =
      d.kernel({"gemm_wide",
                std::string(own_text("device/cuda/gemm_wide.cu")),
                "gemm_wide",
                {"--gpu-architecture=sm_90a", std::string("-DFLAME_T=") + device_type(p.dtype),
                 option("BRAIN", p.dtype == DType::bf16), option("N", columns), option("STAGES", stages),
                 option("CLUSTER", cluster), option("B", along_k), option("BIAS", g.bias),
                 option("GELU", slope    ? 3
                                : g.keep ? 2
                                         : 1),
                 option("SUMS", g.sums)}});
  const Boxes a{p.m, p.k, p.a.rs, chunk, tile_rows}, b = along_k
                                                             ? Boxes{p.n, p.k, p.b.cs, chunk, columns / cluster}
                                                             : Boxes{p.k, p.n, p.b.rs, box_columns, chunk / cluster};
  const int64_t tiles = blocks_for(p.m, tile_rows * cluster) * blocks_for(p.n, columns);
  const Grid grid{.blocks = std::min<int64_t>(d.processors() / cluster, tiles) * cluster,
                  .threads = columns == 256 ? 384 : 512,
                  .shared = 1024 + stages * (tile_rows + columns) * chunk * 2 + tile_rows * columns * 2 +
                            (g.sums ? 2 * finishers * columns * 4 : 0)};
  const PartSums join = g.sums ? PartSums(d, p.dtype, blocks_for(p.m, tile_rows), p.n) : PartSums();
  const Wide wide{static_cast<int32_t>(p.m), static_cast<int32_t>(p.n), static_cast<int32_t>(p.k)};
  return make_ref<Plan>(
      "gemm",
      [=, &d, t = p.dtype, bias = g.bias, keep = g.keep, sums = g.sums](const Run& r) {
        const size_t kept = bias ? 3 : 2, c = kept + (slope ? 1 : 0);
        (*kernel)(grid, a.at(d, t, r.buffers[0]), b.at(d, t, r.buffers[1]), bias ? r.buffers[2] : nullptr,
                  slope ? r.buffers[kept] : nullptr, r.buffers[c], keep ? r.buffers[c + 1] : nullptr, r.workspace,
                  wide);
        if (sums) join(r.workspace, r.buffers[c + 1]);
      },
      join.workspace());
}

}  // namespace flame::cuda
