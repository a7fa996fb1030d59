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

constexpr int64_t a_thread = 16, longest = 1024 * a_thread;              // elements; of a row that stays in registers
constexpr int64_t least_span = 64;                                       // elements with one weight, in a longer row
constexpr int64_t least_long_rows = 96, longest_long = 1 << 19;          // bytes; of rows that a block takes whole
constexpr int long_threads = 1024, long_forward = 4, long_backward = 1;  // of its block; packs in a thread's registers
constexpr int64_t running_blocks = 264;                                  // that add up columns of weights' gradients

// Packs of a row whose sums fit shared memory.
int64_t shared_packs(DType t) { return t == DType::f64 ? 2048 : 4096; }

// As in row_norm.cuh.
struct Norm {
  int64_t rows, length, period, per_row, segment, row_stride, piece, piece_stride, span, spans, chunks;
  double eps, part;
};

int widest_pack(const RowNorm& n, DType t) {
  const int64_t pack = static_cast<int64_t>(16 / size_of(t));
  const bool fits = n.length % pack == 0 && n.piece % pack == 0 && (n.segment == 1 || n.segment % pack == 0);
  return fits ? static_cast<int>(pack) : 1;
}

// How a shape is worked on.
struct Form {
  Norm n;
  bool each, chunked;
  bool whole = false;                          // a long row a block, rather than chunks
  int pack, threads, per, rows, running_rows;  // rows a block

  Form(const RowNorm& r, DType t, double eps) : pack(widest_pack(r, t)) {
    n = {r.rows,
         r.length,
         r.period,
         r.per_row,
         r.segment,
         r.row_stride,
         r.piece,
         r.piece_stride,
         0,
         0,
         0,
         eps,
         1 / static_cast<double>(r.length)};
    if (n.piece == 0) {
      n.row_stride = n.piece = n.length;
      n.piece_stride = 0;
    }
    each = r.per_row == 0 || r.segment == 1;
    chunked = r.length > longest || (!each && r.length > shared_packs(t) * pack);
    n.span = each ? n.length : n.segment;
    n.spans = n.length / n.span;
    const int64_t own = chunked && size_of(t) == 2 ? 2 * a_thread : a_thread;  // elements a thread
    const int64_t elements = chunked ? std::min(n.span, 256 * own) : r.length;
    threads = static_cast<int>(std::clamp<int64_t>(
        static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>((elements + own - 1) / own))), 32, 1024));
    const int64_t packs = (elements + pack - 1) / pack;
    per = static_cast<int>(std::bit_ceil(static_cast<uint64_t>((packs + threads - 1) / threads)));
    rows = threads == 32 && !chunked ? 4 : 1;
    running_rows = std::max(1, 256 / threads);
    whole = chunked && n.rows >= least_long_rows && n.length * static_cast<int64_t>(size_of(t)) <= longest_long &&
            (n.per_row <= 1 || (n.segment % (32 * pack) == 0 && n.per_row <= 64));
    if (whole) threads = long_threads;
    n.chunks = blocks_for(n.span, int64_t{threads} * per * pack);
  }
  // Shared memory of a long row's block: a backward's partial sums, then the packs a thread holds of `tensors` tensors, as
  // many as the GPU has room for, since no order depends on it.
  int64_t parts(DType t, int tensors) const {
    return tensors > 1 ? 2 * n.per_row * threads / 32 * static_cast<int64_t>(size_of(compute_dtype_of(t))) : 0;
  }
  struct LongRows {
    Grid grid;
    int held;
  };
  LongRows over_long_rows(const Kernel& k, DType t, int tensors) const {
    const int64_t step = int64_t{threads} * 16 * tensors, held = (k.most_shared() - parts(t, tensors)) / step;
    const int64_t bytes = held * step + parts(t, tensors);
    return {{.blocks = n.rows, .threads = threads, .shared = static_cast<int>(bytes)}, static_cast<int>(held)};
  }
  Grid over_rows() const { return {.blocks = blocks_for(n.rows, rows), .threads = threads * rows}; }
  Grid over_chunks() const { return {.blocks = n.rows * n.spans * n.chunks, .threads = threads}; }
  Grid running() const {
    return {.blocks = std::min(blocks_for(n.rows, running_rows), running_blocks), .threads = threads * running_rows};
  }
  Ref<Kernel> kernel(Device& d, const char* entry, DType t, DType w, bool rms, bool aligned,
                     std::optional<DType> g = {}, bool plus = false) const {
    const bool forward = std::string_view(entry).starts_with("forward");
    const int in_registers = !whole ? per : forward ? long_forward : long_backward;
    std::vector<std::string> options{fmt::format("-DFLAME_W={}", device_type(w)),
                                     fmt::format("-DFLAME_PACK={}", pack),
                                     fmt::format("-DFLAME_THREADS={}", threads),
                                     fmt::format("-DFLAME_PER={}", in_registers),
                                     fmt::format("-DFLAME_ROWS={}", !forward && each && !chunked ? running_rows : rows),
                                     fmt::format("-DFLAME_EACH={}", int{each}),
                                     fmt::format("-DFLAME_PLUS={}", int{plus}),
                                     fmt::format("-DFLAME_RMS={}", int{rms}),
                                     fmt::format("-DFLAME_FORM={}", whole ? 2 : int{chunked}),
                                     fmt::format("-DFLAME_PIECES={}", int{n.piece != n.length}),
                                     fmt::format("-DFLAME_ALIGNED={}", int{aligned})};
    if (g && *g != t) options.push_back(fmt::format("-DFLAME_G={}", device_type(*g)));
    return device_kernel(d, forward ? "ops/row_norm.cu" : "ops/row_norm_backward.cu", entry, t, std::move(options));
  }
};
// A body for tensors that begin at multiples of 16 bytes, and one for others.
using Body = std::function<void(const Run&)>;
Body by_alignment(size_t buffers, const std::function<Body(bool aligned)>& make) {
  struct Bodies {
    Body wide, narrow;
    std::once_flag made;
  };
  auto all = std::make_shared<Bodies>();
  all->wide = make(true);
  return [all, buffers, make](const Run& r) {
    bool fits = true;
    for (size_t i = 0; i < buffers; ++i) fits &= reinterpret_cast<uintptr_t>(r.buffers[i]) % 16 == 0;
    if (fits) return all->wide(r);
    std::call_once(all->made, [&] { all->narrow = make(false); });
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
  const Form f(n, t, eps);
  const auto make = [&d, n, f, t, w, weight, bias, out, buffer](bool aligned) -> Body {
    if (f.whole)
      return [=, k = f.kernel(d, "forward_long", t, w, n.rms, aligned)](const Run& r) {
        const auto [grid, held] = f.over_long_rows(*k, t, 1);
        (*k)(grid, f.n, r.buffers[0], buffer(r, weight, 1), buffer(r, bias, size_t{1} + weight), r.buffers[out],
             r.buffers[out + 1], r.buffers[out + 2], held);
      };
    if (!f.chunked)
      return [=, k = f.kernel(d, "forward", t, w, n.rms, aligned)](const Run& r) {
        (*k)(f.over_rows(), f.n, r.buffers[0], buffer(r, weight, 1), buffer(r, bias, size_t{1} + weight),
             r.buffers[out], r.buffers[out + 1], r.buffers[out + 2]);
      };
    return [=, sums = f.kernel(d, "forward_chunks", t, w, n.rms, aligned),
            apply = f.kernel(d, "forward_apply", t, w, n.rms, aligned)](const Run& r) {
      (*sums)(f.over_chunks(), f.n, r.buffers[0], r.workspace);
      (*apply)(f.over_chunks(), f.n, r.buffers[0], buffer(r, weight, 1), buffer(r, bias, size_t{1} + weight),
               r.workspace, r.buffers[out], r.buffers[out + 1], r.buffers[out + 2]);
    };
  };
  return make_ref<Plan>("row_norm", by_alignment(out + 1, make),
                        f.chunked && !f.whole ? sums_bytes(f.over_chunks().blocks, t) : 0);
}

bool takes_narrow_gradient(const RowNorm& n) { return (n.per_row == 0 || n.segment == 1) && n.length <= longest; }

Ref<Plan> device_row_norm_backward(Device& d, const RowNorm& n, DType t, DType w, DType g, bool weight, bool arrived,
                                   double eps) {
  const size_t out = size_t{4} + weight + arrived;
  const Form f(n, t, eps);
  const auto make = [&d, n, f, t, w, g, weight, arrived, out](bool aligned) -> Body {
    const auto kernel = [&](const char* entry) { return f.kernel(d, entry, t, w, n.rms, aligned, g, arrived); };
    const auto own = [=](const Run& r) { return weight ? r.buffers[4] : nullptr; };
    const auto before = [=](const Run& r) { return arrived ? r.buffers[out - 1] : nullptr; };
    const bool weights = n.weights() > 0;
    const Grid by_warps{.blocks = blocks_for(32 * n.weights(), 256)};
    if (f.whole)
      return [=, rows = kernel("backward_long"), join = kernel("join_segments")](const Run& r) {
        void* const* b = r.buffers;
        const auto [grid, held] = f.over_long_rows(*rows, t, 2);
        (*rows)(grid, f.n, b[0], b[1], b[2], b[3], own(r), before(r), b[out], r.workspace, held);
        if (weights) (*join)(by_warps, f.n, r.workspace, int64_t{1}, b[out + 1], b[out + 2]);
      };
    if (f.chunked)
      return [=, sums = kernel("backward_chunks"), apply = kernel("backward_apply"),
              join = kernel("join_segments")](const Run& r) {
        void* const* b = r.buffers;
        (*sums)(f.over_chunks(), f.n, b[0], b[1], b[2], b[3], r.workspace);
        (*apply)(f.over_chunks(), f.n, b[0], b[1], b[2], b[3], own(r), r.workspace, before(r), b[out]);
        if (weights) (*join)(by_warps, f.n, r.workspace, f.n.chunks, b[out + 1], b[out + 2]);
      };
    if (f.each)
      return [=, rows = kernel("backward_each"), join = kernel("join_columns")](const Run& r) {
        void* const* b = r.buffers;
        const Grid g = f.running();
        (*rows)(g, f.n, b[0], b[1], b[2], b[3], own(r), before(r), b[out], r.workspace);
        if (weights)
          (*join)({.blocks = blocks_for(2 * n.length, 32)}, r.workspace, g.blocks, n.length, b[out + 1], b[out + 2]);
      };
    return [=, rows = kernel("backward"), join = kernel("join_segments")](const Run& r) {
      void* const* b = r.buffers;
      (*rows)(f.over_rows(), f.n, b[0], b[1], b[2], b[3], own(r), before(r), b[out], r.workspace);
      (*join)(by_warps, f.n, r.workspace, int64_t{1}, b[out + 1], b[out + 2]);
    };
  };
  const int64_t sums = f.whole                  ? n.rows * n.per_row
                       : f.chunked              ? f.over_chunks().blocks
                       : f.each && !n.weights() ? 0
                       : f.each                 ? f.running().blocks * n.length
                                                : n.rows * n.per_row;
  return make_ref<Plan>("row_norm_backward", by_alignment(out + 1, make), sums_bytes(sums, t));
}

}  // namespace flame
