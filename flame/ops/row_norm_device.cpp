// Normalisation of rows on a device that compiles text: which kernels of row_norm.cu serve a shape, and their launches.
#include <algorithm>
#include <bit>
#include <memory>
#include <mutex>

#include "flame/core/format.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/row_norm_internal.h"

namespace flame {
namespace {

constexpr int64_t a_thread = 16, longest = 1024 * a_thread;  // elements; of a row that stays in registers
constexpr int64_t least_span = 64;                           // elements with one weight, in a longer row
constexpr int64_t running_blocks = 264;                      // that add up columns of weights' gradients

// Packs of a row whose sums fit shared memory.
int64_t shared_packs(DType t) { return t == DType::f64 ? 2048 : 4096; }

// As in row_norm.cu.
struct Norm {
  int64_t rows, length, period, per_row, segment, row_stride, piece, piece_stride, span, spans, chunks;
  double eps;
};

// How a shape is worked on with `pack` elements an access.
struct Form {
  Norm n;
  bool each, chunked;
  int pack, threads, per, rows;

  Form(const RowNorm& r, DType t, double eps, int pack) : pack(pack) {
    n = {r.rows, r.length, r.period, r.per_row, r.segment, r.row_stride, r.piece, r.piece_stride, 0, 0, 0, eps};
    if (n.piece == 0) {
      n.row_stride = n.piece = n.length;
      n.piece_stride = 0;
    }
    each = r.per_row == 0 || r.segment == 1;
    chunked = r.length > longest || (!each && r.length > shared_packs(t) * pack);
    n.span = each ? n.length : n.segment;
    n.spans = n.length / n.span;
    const int64_t elements = chunked ? std::min(n.span, 256 * a_thread) : r.length;
    threads = static_cast<int>(std::clamp<int64_t>(
        static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>((elements + a_thread - 1) / a_thread))), 32, 1024));
    const int64_t packs = (elements + pack - 1) / pack;
    per = static_cast<int>(std::bit_ceil(static_cast<uint64_t>((packs + threads - 1) / threads)));
    rows = threads == 32 && !chunked ? 4 : 1;
    n.chunks = blocks_for(n.span, int64_t{threads} * per * pack);
  }
  Grid over_rows() const { return {.blocks = blocks_for(n.rows, rows), .threads = threads * rows}; }
  Grid over_chunks() const { return {.blocks = n.rows * n.spans * n.chunks, .threads = threads}; }
  Grid running() const {
    return {.blocks = std::min(blocks_for(n.rows, rows), running_blocks), .threads = threads * rows};
  }
  Ref<Kernel> kernel(Device& d, const char* entry, DType t, DType w, bool rms) const {
    return device_kernel(d, "ops/row_norm.cu", entry, t,
                         {fmt::format("-DFLAME_W={}", device_type(w)), fmt::format("-DFLAME_PACK={}", pack),
                          fmt::format("-DFLAME_THREADS={}", threads), fmt::format("-DFLAME_PER={}", per),
                          fmt::format("-DFLAME_ROWS={}", rows), fmt::format("-DFLAME_EACH={}", int{each}),
                          fmt::format("-DFLAME_RMS={}", int{rms})});
  }
};
int widest_pack(const RowNorm& n, DType t) {
  const int64_t pack = static_cast<int64_t>(16 / size_of(t));
  const bool fits = n.length % pack == 0 && n.piece % pack == 0 && (n.segment == 1 || n.segment % pack == 0);
  return fits ? static_cast<int>(pack) : 1;
}

// A body by accesses of 16 bytes, or by single elements where a tensor begins at an odd place or sizes do not fit.
using Body = std::function<void(const Run&)>;
Body by_alignment(int widest, size_t buffers, const std::function<Body(int pack)>& make) {
  struct Bodies {
    Body wide, narrow;
    std::once_flag made;
  };
  auto all = std::make_shared<Bodies>();
  all->wide = make(widest);
  if (widest == 1) return all->wide;
  return [all, buffers, make](const Run& r) {
    bool fits = true;
    for (size_t i = 0; i < buffers; ++i) fits &= reinterpret_cast<uintptr_t>(r.buffers[i]) % 16 == 0;
    if (fits) return all->wide(r);
    std::call_once(all->made, [&] { all->narrow = make(1); });
    all->narrow(r);
  };
}
size_t sums_bytes(int64_t count, DType t) { return static_cast<size_t>(2 * count) * size_of(compute_dtype_of(t)); }

}  // namespace

bool on_device(const RowNorm& n, DType t) {
  constexpr int64_t most = int64_t{1} << 31;
  if (n.length >= most || n.rows >= most || n.rows % n.period != 0) return false;
  if (n.per_row > 0 && n.segment == 1) return n.length <= longest;
  return n.per_row == 0 || n.segment >= least_span || n.length <= shared_packs(t);
}

Ref<Plan> device_row_norm(Device& d, const RowNorm& n, DType t, DType w, bool weight, bool bias, double eps) {
  const size_t out = size_t{1} + weight + bias;
  const auto buffer = [=](const Run& r, bool has, size_t at) { return has ? r.buffers[at] : nullptr; };
  size_t workspace = 0;
  const auto make = [&d, n, t, w, weight, bias, eps, out, buffer](int pack) -> Body {
    const Form f(n, t, eps, pack);
    if (!f.chunked)
      return [=, k = f.kernel(d, "forward", t, w, n.rms)](const Run& r) {
        (*k)(f.over_rows(), f.n, r.buffers[0], buffer(r, weight, 1), buffer(r, bias, size_t{1} + weight),
             r.buffers[out], r.buffers[out + 1], r.buffers[out + 2]);
      };
    return [=, sums = f.kernel(d, "forward_chunks", t, w, n.rms),
            apply = f.kernel(d, "forward_apply", t, w, n.rms)](const Run& r) {
      (*sums)(f.over_chunks(), f.n, r.buffers[0], r.workspace);
      (*apply)(f.over_chunks(), f.n, r.buffers[0], buffer(r, weight, 1), buffer(r, bias, size_t{1} + weight),
               r.workspace, r.buffers[out], r.buffers[out + 1], r.buffers[out + 2]);
    };
  };
  const int widest = widest_pack(n, t);
  for (const int pack : {widest, 1})
    if (const Form f(n, t, eps, pack); f.chunked)
      workspace = std::max(workspace, sums_bytes(f.over_chunks().blocks, t));
  return make_ref<Plan>("row_norm", by_alignment(widest, out + 1, make), workspace);
}

Ref<Plan> device_row_norm_backward(Device& d, const RowNorm& n, DType t, DType w, bool weight, double eps) {
  const size_t out = size_t{4} + weight;
  const auto make = [&d, n, t, w, weight, eps, out](int pack) -> Body {
    const Form f(n, t, eps, pack);
    const auto kernel = [&](const char* entry) { return f.kernel(d, entry, t, w, n.rms); };
    const auto own = [=](const Run& r) { return weight ? r.buffers[4] : nullptr; };
    const bool weights = n.weights() > 0;
    const Grid by_warps{.blocks = blocks_for(32 * n.weights(), 256)};
    if (f.chunked)
      return [=, sums = kernel("backward_chunks"), apply = kernel("backward_apply"),
              join = kernel("join_segments")](const Run& r) {
        void* const* b = r.buffers;
        (*sums)(f.over_chunks(), f.n, b[0], b[1], b[2], b[3], r.workspace);
        (*apply)(f.over_chunks(), f.n, b[0], b[1], b[2], b[3], own(r), r.workspace, b[out]);
        if (weights) (*join)(by_warps, f.n, r.workspace, f.n.chunks, b[out + 1], b[out + 2]);
      };
    if (f.each)
      return [=, rows = kernel("backward_each"), join = kernel("join_columns")](const Run& r) {
        void* const* b = r.buffers;
        const Grid g = f.running();
        (*rows)(g, f.n, b[0], b[1], b[2], b[3], own(r), b[out], r.workspace);
        if (weights)
          (*join)({.blocks = blocks_for(2 * n.length, 32)}, r.workspace, g.blocks* f.rows, n.length, b[out + 1],
                  b[out + 2]);
      };
    return [=, rows = kernel("backward"), join = kernel("join_segments")](const Run& r) {
      void* const* b = r.buffers;
      (*rows)(f.over_rows(), f.n, b[0], b[1], b[2], b[3], own(r), b[out], r.workspace);
      (*join)(by_warps, f.n, r.workspace, int64_t{1}, b[out + 1], b[out + 2]);
    };
  };
  const int widest = widest_pack(n, t);
  size_t workspace = 0;
  for (const int pack : {widest, 1}) {
    const Form f(n, t, eps, pack);
    const int64_t sums = f.chunked                ? f.over_chunks().blocks
                         : f.each && !n.weights() ? 0
                         : f.each                 ? f.running().blocks * f.rows * n.length
                                                  : n.rows * n.per_row;
    workspace = std::max(workspace, sums_bytes(sums, t));
  }
  return make_ref<Plan>("row_norm_backward", by_alignment(widest, out + 1, make), workspace);
}

}  // namespace flame
