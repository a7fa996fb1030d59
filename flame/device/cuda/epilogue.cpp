// Products whose activation, slope or sums are done by kernels of ours: where cuBLASLt has no algorithm for it, or a slow one.
#include "flame/device/cuda/epilogue.h"

#include <array>

#include "flame/device/cpu/gemm.h"
#include "flame/device/cuda/libraries.h"
#include "flame/device/cuda/tuning.h"

namespace flame::cuda {
namespace {

Ref<Kernel> epilogue_kernel(Device& d, DType t, const char* entry, Activation a = Activation::none) {
  return d.kernel(
      {std::string("gemm ") + entry,
       std::string(own_text("device/cuda/epilogue.cu")),
       entry,
       {std::string("-DFLAME_T=") + device_type(t), std::string("-DFLAME_RELU=") + (a == Activation::relu ? "1" : "0"),
        std::string("-DFLAME_IN_DOUBLE=") + (size_of(t) == 2 ? "0" : "1"), "--fmad=false"}});
}
bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// The sums of a matrix's columns where they lie side by side, else by rows of what it was turned from.
class Sums {
 public:
  Sums(Device& d, DType t, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step)
      : dtype_(t), rows_(rows), columns_(columns), row_step_(row_step), column_step_(column_step) {
    if (column_step != 1 && columns > 1) {
      by_rows_ = epilogue_kernel(d, t, "row_sums");
      return;
    }
    bands_ = blocks_for(rows, band);
    parts_ = epilogue_kernel(d, t, "column_parts");
    join_ = PartSums(d, t, bands_, columns);
  }
  size_t workspace() const { return by_rows_ ? 0 : join_.workspace(); }
  void operator()(const void* a, void* sums, void* workspace) const {
    if (columns_ == 0) return;
    tuning_stats().epilogue_kernels += by_rows_ ? 1 : 2;
    if (by_rows_)
      return (*by_rows_)({.blocks = blocks_for(columns_, 32)}, a, sums, columns_, rows_, column_step_, row_step_);
    (*parts_)({.blocks = bands_ * blocks_for(columns_, 256)}, a, workspace, rows_, columns_, row_step_, band,
              columns_ % 8 == 0 && row_step_ * static_cast<int64_t>(size_of(dtype_)) % 16 == 0 && aligned(a));
    join_(workspace, sums);
  }

 private:
  static constexpr int64_t band = 128;
  DType dtype_;
  int64_t rows_, columns_, row_step_, column_step_, bands_ = 0;
  Ref<Kernel> by_rows_, parts_;
  PartSums join_;
};

}  // namespace

PartSums::PartSums(Device& d, DType t, int64_t count, int64_t columns)
    : kernel_(epilogue_kernel(d, t, "join_parts")),
      count_(count),
      columns_(columns),
      workspace_(static_cast<size_t>(count * columns) * (size_of(t) == 2 ? sizeof(float) : sizeof(double))) {}
void PartSums::operator()(const void* parts, void* sums) const {
  (*kernel_)({.blocks = blocks_for(columns_, 32)}, parts, sums, count_, columns_);
}

bool has_epilogue(const GemmDesc& g) {
  return g.activation != Activation::none || g.slope != Activation::none || g.sums;
}
GemmDesc without_epilogue(const GemmDesc& g) {
  GemmDesc out = g;
  out.sums = false;
  if (!g.sums) out.activation = out.slope = Activation::none, out.keep = false;
  return out;
}

Ref<Plan> unfused_gemm(Device& d, const GemmDesc& g, const Ref<Plan>& product) {
  if (g.sums) {
    const bool slope = g.slope != Activation::none;
    const Meta& m = slope ? g.c : g.a;
    const Sums sums = slope ? Sums(d, m.dtype, m.shape[0], m.shape[1], m.strides[0], m.strides[1])
                            : Sums(d, m.dtype, m.shape[1], m.shape[0], m.strides[1], m.strides[0]);
    const size_t before = (product->workspace + 255) / 256 * 256, c = 2 + (g.bias ? 1 : 0) + (slope ? 1 : 0);
    return make_ref<Plan>(
        "gemm",
        [=](const Run& r) {
          product->body(r);
          sums(r.buffers[slope ? c : 0], r.buffers[c + 1], static_cast<char*>(r.workspace) + before);
        },
        before + sums.workspace());
  }
  const Activation a = g.activation != Activation::none ? g.activation : g.slope;
  const int64_t columns = g.c.shape.back(), rows = columns ? numel(g.c.shape) / columns : 0;
  const int64_t groups = a == Activation::relu ? (columns + 127) / 128 * 16 : (columns + 7) / 8;
  const Ref<Kernel> through =
      epilogue_kernel(d, g.c.dtype, g.activation != Activation::none ? "activate" : "slopes", a);
  return make_ref<Plan>(
      "gemm",
      [=, bias = g.bias, given = g.slope != Activation::none, keep = g.keep](const Run& r) {
        const int before = bias ? 3 : 2, c = before + (given ? 1 : 0);
        const std::array<void*, 4> buffers{r.buffers[0], r.buffers[1], r.buffers[bias ? 2 : c], r.buffers[c]};
        product->body({buffers.data(), r.scalars, r.workspace});
        void* kept = given ? r.buffers[before] : keep ? r.buffers[c + 1] : nullptr;
        tuning_stats().epilogue_kernels += 1;
        if (rows > 0)
          (*through)({.blocks = blocks_for(rows * groups, 256)}, r.buffers[c], kept, rows, columns, groups,
                     columns % 8 == 0 && aligned(r.buffers[c]) && aligned(kept));
      },
      product->workspace);
}

}  // namespace flame::cuda
