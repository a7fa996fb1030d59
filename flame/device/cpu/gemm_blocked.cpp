// The own matrix product: any dtype and strides. Operands are packed into the workspace, tiles run on all threads.
// A tile is summed by one thread in an order that k alone decides, so the bits do not depend on the threads.
#include <algorithm>

#include "flame/device/cpu/gemm.h"
#include "flame/device/cpu/gemm_kernel.h"
#include "flame/device/cpu/parallel.h"

namespace flame {
namespace {

constexpr int64_t depth_block = 256;                 // panels of this depth stay in L1
constexpr int64_t block_rows = 48, block_cols = 96;  // multiples of every kernel's tile; accumulators fit in L1
constexpr int64_t pack_grain = 32 * 1024;            // elements worth a thread
constexpr int64_t work_grain = 256 * 1024;           // multiplications worth a thread

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Operands {
  const char* a;
  const char* b;
  const void* bias;
  char* c;
};

class BlockedGemm {
 public:
  explicit BlockedGemm(const GemmProblem& p)
      : p_(p), kernel_(gemm_kernel(p.dtype)), size_(static_cast<int64_t>(size_of(p.dtype))) {
    rows_ = round_up(p.m, kernel_.mr);
    cols_ = round_up(p.n, kernel_.nr);
    const int64_t accumulator = static_cast<int64_t>(kernel_.accumulator);
    a_bytes_ = round_up(rows_ * p.k * accumulator, 64);
    slot_bytes_ = a_bytes_ + round_up(cols_ * p.k * accumulator, 64);
    // Many products share the threads among them, each with its own packing space; few are computed one by one.
    const int64_t batches = p.batches();
    slots_ = batches >= num_threads() ? std::min<int64_t>(batches, num_threads()) : 1;
  }
  size_t workspace() const { return static_cast<size_t>(slots_ * slot_bytes_); }

  void run(const Run& r) const {
    const void* bias = p_.bias ? r.buffers[2] : nullptr;
    const int64_t batches = p_.batches();
    parallel_for(slots_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot)
        for (int64_t i = batches * slot / slots_; i < batches * (slot + 1) / slots_; ++i) {
          const GemmOffsets o = gemm_offsets(p_, i);
          product({static_cast<const char*>(r.buffers[0]) + o.a * size_,
                   static_cast<const char*>(r.buffers[1]) + o.b * size_, bias,
                   static_cast<char*>(r.buffers[p_.bias ? 3 : 2]) + o.c * size_},
                  static_cast<char*>(r.workspace) + slot * slot_bytes_);
        }
    });
  }

 private:
  void product(const Operands& x, char* slot) const {
    char* packed_b = slot + a_bytes_;
    pack(kernel_.pack_a, kernel_.mr, x.a, p_.a.rs, p_.a.cs, p_.m, slot);
    pack(kernel_.pack_b, kernel_.nr, x.b, p_.b.cs, p_.b.rs, p_.n, packed_b);
    const int64_t down = (p_.m + block_rows - 1) / block_rows, right = (p_.n + block_cols - 1) / block_cols;
    const int64_t work = block_rows * block_cols * std::max<int64_t>(p_.k, 1);
    parallel_for(down * right, std::max<int64_t>(1, work_grain / work), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) block(x, slot, packed_b, t / right * block_rows, t % right * block_cols);
    });
  }

  // Panels of `width` lines, depth block by depth block.
  void pack(GemmKernel::Pack fn, int width, const char* x, int64_t across, int64_t along, int64_t lines,
            char* out) const {
    const int64_t panels = (lines + width - 1) / width, depths = (p_.k + depth_block - 1) / depth_block;
    const int64_t accumulator = static_cast<int64_t>(kernel_.accumulator);
    parallel_for(
        panels * depths, std::max<int64_t>(1, pack_grain / (width * depth_block)), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t panel = i % panels, p0 = i / panels * depth_block, depth = std::min(depth_block, p_.k - p0);
            fn(x + (panel * width * across + p0 * along) * size_, across, along,
               std::min<int64_t>(width, lines - panel * width), depth,
               out + (p0 * panels + panel * depth) * width * accumulator);
          }
        });
  }

  void block(const Operands& x, const char* packed_a, const char* packed_b, int64_t i0, int64_t j0) const {
    alignas(64) char acc[block_rows * block_cols * 8];
    const int64_t accumulator = static_cast<int64_t>(kernel_.accumulator);
    const int64_t rows = std::min(block_rows, p_.m - i0), cols = std::min(block_cols, p_.n - j0);
    for (int64_t p0 = 0; p0 < std::max<int64_t>(p_.k, 1); p0 += depth_block) {
      const int64_t depth = std::min(depth_block, p_.k - p0);
      for (int64_t j = 0; j < cols; j += kernel_.nr)
        for (int64_t i = 0; i < rows; i += kernel_.mr)
          kernel_.tile(packed_a + (p0 * rows_ + (i0 + i) * depth) * accumulator,
                       packed_b + (p0 * cols_ + (j0 + j) * depth) * accumulator, depth,
                       acc + (i * block_cols + j) * accumulator, block_cols, p0 > 0);
    }
    kernel_.store(acc, block_cols, rows, cols, x.bias ? static_cast<const char*>(x.bias) + j0 * size_ : nullptr,
                  x.c + (i0 * p_.c.rs + j0 * p_.c.cs) * size_, p_.c.rs, p_.c.cs);
  }

  GemmProblem p_;
  GemmKernel kernel_;
  int64_t size_, rows_, cols_, a_bytes_, slot_bytes_, slots_;
};

}  // namespace

Ref<Plan> gemm_blocked(const GemmProblem& p) {
  const BlockedGemm gemm(p);
  return make_ref<Plan>(
      "gemm", [gemm](const Run& r) { gemm.run(r); }, gemm.workspace());
}

Ref<Plan> gemm_small(const GemmProblem& p) {
  // Loops over the columns of a row-major b pay at any shape, dot products only for a few rows or columns.
  SmallGemmFn fn = nullptr;
  if (p.b.cs == 1 && p.c.cs == 1) fn = small_gemm_rows(p.dtype);
  else if (p.a.cs == 1 && p.b.rs == 1 && std::min(p.m, p.n) <= 2) fn = small_gemm_dots(p.dtype);
  if (!fn) return nullptr;
  const SmallGemm g{p.m, p.n, p.k, p.a.rs, p.a.cs, p.b.rs, p.b.cs, p.c.rs, p.c.cs};
  if (p.batch.empty() && !p.bias)
    return make_ref<Plan>("gemm", [fn, g](const Run& r) { fn(g, r.buffers[0], r.buffers[1], nullptr, r.buffers[2]); });
  if (p.batch.empty())
    return make_ref<Plan>("gemm",
                          [fn, g](const Run& r) { fn(g, r.buffers[0], r.buffers[1], r.buffers[2], r.buffers[3]); });
  return make_ref<Plan>("gemm", [fn, g, p](const Run& r) {
    const int64_t size = static_cast<int64_t>(size_of(p.dtype)), batches = p.batches();
    for (int64_t i = 0; i < batches; ++i) {
      const GemmOffsets o = gemm_offsets(p, i);
      fn(g, static_cast<const char*>(r.buffers[0]) + o.a * size, static_cast<const char*>(r.buffers[1]) + o.b * size,
         p.bias ? r.buffers[2] : nullptr, static_cast<char*>(r.buffers[p.bias ? 3 : 2]) + o.c * size);
    }
  });
}

}  // namespace flame
