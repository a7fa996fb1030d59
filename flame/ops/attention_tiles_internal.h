// Internal: what attention's two directions share on the CPU: sizes, packing, masks and dropout of a tile, workspaces.
#pragma once
#include <algorithm>
#include <limits>

#include "flame/device/cpu/gemm_kernel.h"
#include "flame/device/cpu/parallel.h"
#include "flame/ops/attention_internal.h"
#include "flame/ops/philox_internal.h"

namespace flame::attention {

inline constexpr int64_t key_tile = 192;     // a multiple of every kernel's rows; the scores of a tile stay in L1
inline constexpr int64_t query_block = 256;  // queries that share packed keys

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A matrix a (batch, head): bytes, with its steps in elements.
struct Matrix {
  char* data;
  int64_t row, col, size;
  char* at(int64_t r, int64_t c = 0) const { return data + (r * row + c * col) * size; }
};
struct Matrices {
  Strides strides;
  int64_t size = 0;
  explicit Matrices(const Meta& m) : strides(m.strides), size(static_cast<int64_t>(size_of(m.dtype))) {}
  Matrix of(const void* data, int64_t batch, int64_t head) const {
    char* first = static_cast<char*>(const_cast<void*>(data));
    return {first + (batch * strides[0] + head * strides[1]) * size, strides[2], strides[3], size};
  }
};

// What both directions know of the problem.
struct Sizes {
  Sizes(std::span<const Meta> in, const AttentionFlags& f)
      : flags(f),
        kernel(gemm_kernel(in[0].dtype)),
        batch(in[0].shape[0]),
        heads(in[0].shape[1]),
        shared(in[1].shape[1]),
        queries(in[0].shape[2]),
        keys(in[1].shape[2]),
        width(in[0].shape[3]),
        depth(in[2].shape[3]),
        mr(kernel.mr),
        nr(kernel.nr) {}
  AttentionFlags flags;
  GemmKernel kernel;
  int64_t batch, heads, shared, queries, keys;
  int64_t width, depth;  // of queries and keys, of values
  int64_t mr, nr;
  int64_t group() const { return shared ? heads / shared : 0; }
  // Keys of the tile at j0 that some query of the panel at q0 may see.
  int64_t seen(int64_t q0, int64_t j0, int64_t count) const {
    return flags.causal ? std::clamp<int64_t>(std::min(q0 + nr, queries) - j0, 0, count) : count;
  }
};

// Hands out pieces of a workspace, or only measures them.
template <class A>
class Space {
 public:
  explicit Space(void* at) : at_(reinterpret_cast<uintptr_t>(at)) {}
  A* take(int64_t count) {
    A* out = reinterpret_cast<A*>(at_ + used_);  // an integer, since a measured workspace has no address
    used_ += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(A)), 64));
    return out;
  }
  size_t used() const { return used_; }

 private:
  uintptr_t at_;
  size_t used_ = 0;
};

template <class A, class T>
A widened(T x) {
  if constexpr (sizeof(T) == 2) return static_cast<A>(static_cast<float>(x));
  else return static_cast<A>(x);
}

template <class M, class A>
void read_bias(const Matrix& mask, int64_t q0, int64_t queries, int64_t j0, int64_t keys, int64_t columns, A* out) {
  constexpr A none = -std::numeric_limits<A>::infinity();
  const M* from = reinterpret_cast<const M*>(mask.at(q0, j0));
  for (int64_t j = 0; j < keys; ++j)
    for (int64_t i = 0; i < columns; ++i) {
      if (i >= queries) {
        out[j * columns + i] = 0;
        continue;
      }
      const M m = from[i * mask.row + j * mask.col];
      if constexpr (std::is_same_v<M, bool>) out[j * columns + i] = m ? 0 : none;
      else out[j * columns + i] = widened<A>(m);
    }
}

// The mask and the dropout of one tile.
template <class A>
struct Extras {
  using Read = void (*)(const Matrix&, int64_t, int64_t, int64_t, int64_t, int64_t, A*);
  Read read = nullptr;
  bool select = false;  // a mask of bool
  explicit Extras(const Meta* mask) {
    if (!mask) return;
    select = mask->dtype == DType::boolean;
    switch (mask->dtype) {
      case DType::boolean: read = read_bias<bool, A>; break;
      case DType::f16: read = read_bias<float16, A>; break;
      case DType::bf16: read = read_bias<bfloat16, A>; break;
      case DType::f32: read = read_bias<float, A>; break;
      default: read = read_bias<double, A>;
    }
  }
  // `row` is the number of the first query's row among all [B, H, L] rows.
  static void draw(const Sizes& s, const AttentionDraw& d, int64_t row, int64_t queries, int64_t j0, int64_t keys,
                   A* out) {
    uint32_t words[key_tile + 8];
    for (int64_t i = 0; i < s.nr; ++i) {
      if (i < queries) {
        const int64_t first = (row + i) * s.keys + j0, block = first / 4;
        philox_words(d.seed, static_cast<uint64_t>(block), d.call, (first + keys + 3) / 4 - block, words);
        for (int64_t j = 0; j < keys; ++j)
          out[j * s.nr + i] = words[first - 4 * block + j] < d.threshold ? static_cast<A>(d.factor) : A{};
      } else {
        for (int64_t j = 0; j < keys; ++j) out[j * s.nr + i] = 0;
      }
    }
  }
};

// Left operands: panels of mr keys, each `width` deep.
inline void pack_keys(const Sizes& s, const Matrix& x, int64_t j0, int64_t keys, int64_t width, char* out) {
  const auto element = static_cast<int64_t>(s.kernel.accumulator);
  for (int64_t r = 0; r < keys; r += s.mr)
    s.kernel.pack_a(x.at(j0 + r), x.row, x.col, std::min(s.mr, keys - r), width, out + r * width * element);
}
// The transpose: panels of mr columns of x, each `keys` deep.
inline void pack_columns(const Sizes& s, const Matrix& x, int64_t j0, int64_t keys, int64_t width, char* out) {
  const auto element = static_cast<int64_t>(s.kernel.accumulator);
  for (int64_t e = 0; e < width; e += s.mr)
    s.kernel.pack_a(x.at(j0, e), x.col, x.row, std::min(s.mr, width - e), keys, out + e * keys * element);
}
// Right operand: a panel of nr queries, `width` deep.
inline void pack_queries(const Sizes& s, const Matrix& x, int64_t q0, int64_t count, int64_t width, void* out) {
  s.kernel.pack_b(x.at(q0), x.row, x.col, count, width, out);
}

// Tasks run in slots, each with its own part of the workspace; slot i takes every slots-th task, so that long and short
// ones of a causal mask are spread.
struct Slots {
  int64_t tasks, slots;
  size_t bytes;  // of one slot
  Slots(int64_t tasks, size_t bytes)
      : tasks(tasks), slots(std::max<int64_t>(1, std::min<int64_t>(tasks, num_threads()))), bytes(bytes) {}
  size_t workspace() const { return static_cast<size_t>(slots) * bytes; }
  template <class F>
  void run(void* workspace, F fn) const {
    parallel_for(slots, 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot)
        for (int64_t i = slot; i < tasks; i += slots) fn(i, static_cast<char*>(workspace) + slot * int64_t(bytes));
    });
  }
};

template <template <class> class Work>
Ref<Plan> plan_of(const char* name, std::span<const Meta> in, std::span<const Meta> out, const AttentionFlags& f) {
  const auto made = [&](auto work) {
    const size_t workspace = work.workspace();
    return make_ref<Plan>(
        name, [work = std::move(work)](const Run& r) { work.run(r); }, workspace);
  };
  return in[0].dtype == DType::f64 ? made(Work<double>(in, out, f)) : made(Work<float>(in, out, f));
}

}  // namespace flame::attention
