// Plans of attention on a GPU: a library's where it takes the problem, tiles on tensor cores for 16-bit rows of memory, and
// plain tiles for everything else. None builds the scores.
#include <algorithm>
#include <mutex>

#include "flame/ops/attention_internal.h"
#include "flame/ops/device_internal.h"

namespace flame {
namespace {

// As in attention.cuh.
struct Problem {
  int64_t batch, heads, shared, queries, keys, width, depth;
  int64_t q[4], k[4], v[4], out[4], g[4], dq[4], dk[4], dv[4], mask[4];
  double scale, factor;
  uint64_t seed, call, threshold;
  int64_t causal;
};
void put(int64_t (&to)[4], const Meta& m) { std::copy_n(m.strides.begin(), 4, to); }

Problem problem_of(std::span<const Meta> in, std::span<const Meta> out, const AttentionFlags& f, bool backward) {
  Problem p{};
  p.batch = in[0].shape[0];
  p.heads = in[0].shape[1];
  p.shared = in[1].shape[1];
  p.queries = in[0].shape[2];
  p.keys = in[1].shape[2];
  p.width = in[0].shape[3];
  p.depth = in[2].shape[3];
  p.causal = f.causal;
  put(p.q, in[0]);
  put(p.k, in[1]);
  put(p.v, in[2]);
  put(p.out, backward ? in[3] : out[0]);
  if (f.mask) put(p.mask, in.back());
  if (!backward) return p;
  put(p.g, in[5]);
  put(p.dq, out[0]);
  put(p.dk, out[1]);
  put(p.dv, out[2]);
  return p;
}
Problem with_scalars(Problem p, const AttentionFlags& f, const Run& r) {
  p.scale = r.scalars[0].f;
  if (!f.dropout) return p;
  const AttentionDraw d = attention_draw(r.scalars);
  p.seed = d.seed;
  p.call = d.call;
  p.threshold = d.threshold;
  p.factor = d.factor;
  return p;
}

// Rows that can be read 16 bytes at a time.
bool in_rows(const Meta& m) {
  return m.strides[3] == 1 && m.shape[3] % 8 == 0 && m.strides[0] % 8 == 0 && m.strides[1] % 8 == 0 &&
         m.strides[2] % 8 == 0;
}
bool in_rows(std::span<const Meta> metas, std::initializer_list<size_t> which) {
  for (size_t i : which)
    if (!in_rows(metas[i])) return false;
  return true;
}
bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

enum class Pass { forward, queries, keys };  // backward to the queries; to keys and values

// The kernels of one pass and how they are launched: on tensor cores, or in plain arithmetic.
struct Tiles {
  Device& device;
  DType type;
  const char* file;
  int64_t rows, columns;  // of a block
  int threads, shared = 0;
  std::vector<std::string> options;

  Tiles(Device& d, bool tensor_cores, std::span<const Meta> in, const AttentionFlags& f, Pass pass)
      : device(d), type(in[0].dtype) {
    const int64_t width = std::max<int64_t>({in[0].shape[3], in[2].shape[3], 1});
    if (tensor_cores) {  // as in attention_mma.cu
      file = "ops/attention_mma.cu";
      columns = (width + 31) / 32 * 32;
      const int parts = f.dropout || (pass != Pass::forward && columns > 64) ? 1 : 2;
      threads = pass == Pass::forward || parts == 1 ? 128 : 64;
      rows = threads / 2 * parts;
      const int64_t step = pass != Pass::forward ? 32 : columns > 96 ? 48 : 64;
      const int64_t held = (pass == Pass::forward ? 1 : 2) * rows + 4 * step;
      shared = static_cast<int>(held * (columns + 8) * 2 + (pass == Pass::keys ? 4 * step * 4 : 0));
    } else {
      file = "ops/attention.cu";
      rows = type == DType::f64 ? 64 : 128;
      columns = 2 * width <= rows ? rows / 2 : rows;
      threads = 256;
    }
    options = {"-DFLAME_WIDTH=" + std::to_string(columns), std::string("-DFLAME_DROPOUT=") + (f.dropout ? "1" : "0"),
               "-DFLAME_PASS=" + std::to_string(static_cast<int>(pass))};
    if (f.mask) options.push_back(std::string("-DFLAME_MASK=") + device_type(in.back().dtype));
  }
  Ref<Kernel> kernel(const char* entry) const { return device_kernel(device, file, entry, type, options); }
  // Over tiles of `count` rows of every unit; wide results in several blocks.
  Grid grid(int64_t units, int64_t count, int64_t width) const {
    return {.blocks = units * ((count + rows - 1) / rows),
            .y = std::max<int64_t>(1, (width + columns - 1) / columns),
            .threads = threads,
            .shared = shared};
  }
};

// Whether a library or the kernels for tensor cores may take it, as far as the dtype and the layout go.
bool fits_tensor_cores(std::span<const Meta> in, std::span<const Meta> out, bool backward) {
  constexpr int64_t least_keys = 64;  // below, float32 costs little and rounds once
  if (size_of(in[0].dtype) != 2 || in[0].shape[3] == 0 || in[2].shape[3] == 0 || in[1].shape[2] < least_keys)
    return false;
  return in_rows(in, {0, 1, 2}) && (backward ? in_rows(in, {3, 5}) && in_rows(out, {0, 1, 2}) : in_rows(out, {0}));
}

Ref<Plan> forward_plan(Device& d, bool tensor_cores, std::span<const Meta> in, std::span<const Meta> out,
                       const AttentionFlags& f) {
  const Tiles t(d, tensor_cores, in, f, Pass::forward);
  const Problem p = problem_of(in, out, f, false);
  const Grid grid = t.grid(p.batch * p.heads, p.queries, p.depth);
  if (grid.blocks == 0) return make_ref<Plan>("attention", [](const Run&) {});
  return make_ref<Plan>("attention", [=, k = t.kernel("forward")](const Run& r) {
    void* const* b = r.buffers;
    void* const* to = b + (f.mask ? 4 : 3);
    (*k)(grid, with_scalars(p, f, r), b[0], b[1], b[2], f.mask ? b[3] : nullptr, to[0], to[1]);
  });
}

Ref<Plan> backward_plan(Device& d, bool tensor_cores, std::span<const Meta> in, std::span<const Meta> out,
                        const AttentionFlags& f) {
  const Tiles to_queries(d, tensor_cores, in, f, Pass::queries), to_keys(d, tensor_cores, in, f, Pass::keys);
  const Problem p = problem_of(in, out, f, true);
  const int64_t rows = p.batch * p.heads * p.queries;
  const Grid by_queries = to_queries.grid(p.batch * p.heads, p.queries, p.width),
             by_keys = to_keys.grid(p.batch * p.shared, p.keys, std::max(p.width, p.depth));
  const Ref<Kernel> dots = to_queries.kernel("row_dots"), queries = to_queries.kernel("backward_queries"),
                    keys = to_keys.kernel("backward_keys");
  return make_ref<Plan>(
      "attention_backward",
      [=](const Run& r) {
        void* const* b = r.buffers;
        void* const* to = b + (f.mask ? 7 : 6);
        void* const mask = f.mask ? b[6] : nullptr;
        const Problem now = with_scalars(p, f, r);
        if (rows > 0) (*dots)({.blocks = blocks_for(rows, 8)}, now, b[3], b[5], r.workspace);
        if (by_queries.blocks > 0) (*queries)(by_queries, now, b[0], b[1], b[2], b[5], b[4], r.workspace, mask, to[0]);
        if (by_keys.blocks > 0) (*keys)(by_keys, now, b[0], b[1], b[2], b[5], b[4], r.workspace, mask, to[1], to[2]);
      },
      static_cast<size_t>(rows) * (in[0].dtype == DType::f64 ? 8 : 4));
}

// `fast` where the buffers that hold rows are aligned; otherwise what `slow` makes, when that first happens.
Ref<Plan> if_aligned(const Ref<Plan>& fast, const std::vector<size_t>& rows, size_t slow_workspace,
                     std::function<Ref<Plan>()> slow) {
  struct Late {
    std::once_flag once;
    Ref<Plan> plan;
  };
  return make_ref<Plan>(
      fast->op,
      [fast, rows, slow = std::move(slow), late = std::make_shared<Late>()](const Run& r) {
        if (std::all_of(rows.begin(), rows.end(), [&](size_t i) { return aligned(r.buffers[i]); }))
          return fast->body(r);
        std::call_once(late->once, [&] { late->plan = slow(); });
        late->plan->body(r);
      },
      std::max(fast->workspace, slow_workspace));
}

Ref<Plan> plan_of(Device& d, std::span<const Meta> in, std::span<const Meta> out, const AttentionFlags& f,
                  bool backward) {
  const auto make = backward ? backward_plan : forward_plan;
  if (!fits_tensor_cores(in, out, backward)) return make(d, false, in, out, f);
  Ref<Plan> fast;
  if (!f.mask && !f.dropout) {
    AttentionDesc a;
    a.backward = backward;
    a.causal = f.causal;
    a.q = in[0];
    a.k = in[1];
    a.v = in[2];
    a.out = backward ? in[3] : out[0];
    if (backward) {
      a.g = in[5];
      a.dq = out[0];
      a.dk = out[1];
      a.dv = out[2];
    }
    fast = d.attention(a);
  }
  constexpr int64_t most_columns = 128;  // of our kernels
  if (!fast && std::max(in[0].shape[3], in[2].shape[3]) <= most_columns) fast = make(d, true, in, out, f);
  if (!fast) return make(d, false, in, out, f);
  const size_t first = in.size();  // output
  const std::vector<size_t> rows =
      backward ? std::vector<size_t>{0, 1, 2, 3, 5, first, first + 1, first + 2} : std::vector<size_t>{0, 1, 2, first};
  const size_t dots = backward ? static_cast<size_t>(numel(in[4].shape)) * 4 : 0;
  const std::vector<Meta> from(in.begin(), in.end()), to(out.begin(), out.end());
  return if_aligned(fast, rows, dots, [=, &d] { return make(d, false, from, to, f); });
}

}  // namespace

Ref<Plan> attention_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out, const AttentionFlags& f) {
  return plan_of(d, in, out, f, false);
}
Ref<Plan> attention_backward_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out,
                                  const AttentionFlags& f) {
  return plan_of(d, in, out, f, true);
}

}  // namespace flame
