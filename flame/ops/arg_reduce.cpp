// argmax and argmin: the place of the extreme element along any axes, as an opaque op with a CPU body.
#include <cmath>

#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/device/cpu/parallel.h"
#include "flame/ops/create.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/extreme_internal.h"
#include "flame/ops/gather.h"
#include "flame/ops/reduce.h"
#include "flame/ops/reduce_internal.h"

namespace flame {
namespace {

// Sizes and strides of some axes of a tensor, walked in row-major order.
struct Walk {
  Dims sizes, strides;
  void add(int64_t size, int64_t stride) {
    sizes.push_back(size);
    strides.push_back(stride);
  }
  int64_t offset(int64_t index) const {
    int64_t at = 0;
    for (int i = sizes.rank() - 1; i >= 0; --i) {
      at += index % sizes[i] * strides[i];
      index /= sizes[i];
    }
    return at;
  }
};

template <class T>
bool is_nan(T v) {
  if constexpr (std::is_floating_point_v<T>) return std::isnan(v);
  else return false;
}
template <class T>
auto comparable(T v) {
  if constexpr (std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>) return static_cast<float>(v);
  else return v;
}
// The first NaN, or else the first of the extreme elements.
template <bool greatest, class T>
int64_t place_of_extreme(const T* x, const Walk& along, int64_t count) {
  const int last = along.sizes.rank() - 1;
  const int64_t n = last < 0 ? 1 : along.sizes[last], step = last < 0 ? 0 : along.strides[last];
  auto best = comparable(x[0]);
  int64_t at = 0;
  for (int64_t start = 0; start < count; start += n) {
    const T* row = x + along.offset(start);
    for (int64_t i = 0; i < n; ++i) {
      if (is_nan(best)) return at;
      if constexpr (std::is_arithmetic_v<T>) {
        if (step == 1) i = first_beyond<greatest>(row, i, n, best);
        if (i == n) break;
      }
      const auto v = comparable(row[i * step]);
      if (is_nan(v) || (greatest ? v > best : v < best)) {
        best = v;
        at = start + i;
      }
    }
  }
  return at;
}

class ArgReduce final : public Op {
 public:
  ArgReduce(const char* name, bool greatest, const ReducedAxes& axes) : name_(name), greatest_(greatest), axes_(axes) {}
  const char* name() const override { return name_; }
  std::vector<Meta> infer(std::span<const Tensor>, Loc) const override {
    return {contiguous_meta(DType::i64, axes_.out)};
  }
  void key(Key& k) const override { k << axes_.mask; }
  bool saves_input(int) const override { return false; }
  bool differentiable() const override { return false; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    Walk kept, along;
    for (int i = 0; i < in[0].shape.rank(); ++i)
      (axes_.mask >> i & 1 ? along : kept).add(in[0].shape[i], in[0].strides[i]);
    const int64_t rows = numel(axes_.kept), count = axes_.count;
    return visit_dtype(in[0].dtype, [&](auto t) {
      using T = decltype(t);
      return make_ref<Plan>(name_, [kept, along, rows, count, greatest = greatest_](const Run& r) {
        const T* x = static_cast<const T*>(r.buffers[0]);
        int64_t* out = static_cast<int64_t*>(r.buffers[1]);
        parallel_for(rows, std::max<int64_t>(1, 16384 / count), [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const T* row = x + kept.offset(i);
            out[i] = greatest ? place_of_extreme<true>(row, along, count) : place_of_extreme<false>(row, along, count);
          }
        });
      });
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    struct Walks {  // as in arg_reduce.cu
      int64_t rows, count, kept_rank, along_rank;
      int64_t kept[max_rank], kept_strides[max_rank], along[max_rank], along_strides[max_rank];
    } w{numel(axes_.kept), axes_.count, 0, 0, {}, {}, {}, {}};
    if (w.rows == 0) return make_ref<Plan>(name_, [](const Run&) {});
    for (int i = 0; i < in[0].shape.rank(); ++i) {
      const bool reduced = (axes_.mask >> i & 1) != 0;
      int64_t& rank = reduced ? w.along_rank : w.kept_rank;
      (reduced ? w.along : w.kept)[rank] = in[0].shape[i];
      (reduced ? w.along_strides : w.kept_strides)[rank++] = in[0].strides[i];
    }
    constexpr int64_t warps = 16384, least = 1024,
                      best_bytes = 16;  // in flight; elements of a part; as in arg_reduce.cu
    const int64_t each = std::max(least, w.count / std::max<int64_t>(1, warps / w.rows) + 1);
    const int64_t parts = (w.count + each - 1) / each;
    const auto kernel = [&](const char* entry) {
      return device_kernel(d, "ops/arg_reduce.cu", entry, in[0].dtype,
                           {greatest_ ? "-DFLAME_GREATEST=1" : "-DFLAME_GREATEST=0"});
    };
    Ref<Kernel> join;
    if (parts > 1) join = kernel("arg_join");
    return make_ref<Plan>(
        name_,
        [k = kernel("arg_extreme"), join, w, parts, each](const Run& r) {
          (*k)({.blocks = blocks_for(w.rows * parts, 8)}, w, r.buffers[0], r.workspace, r.buffers[1], parts, each);
          if (join) (*join)({.blocks = blocks_for(w.rows, 8)}, r.workspace, r.buffers[1], w.rows, parts);
        },
        parts > 1 ? static_cast<size_t>(w.rows * parts * best_bytes) : 0);
  }

 private:
  const char* name_;
  bool greatest_;
  ReducedAxes axes_;
};

Tensor arg_extreme(const char* name, bool greatest, const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  const ReducedAxes a = reduced_axes(name, x, axes, keepdim, loc);
  if (a.count == 0)
    fail<ShapeError>(loc, "{}: expected at least one element to reduce over, got shape {}", name, x.shape());
  return dispatch(make_ref<ArgReduce>(name, greatest, a), {x.detach()}, loc);
}

}  // namespace

Tensor argmax(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  return arg_extreme("argmax", true, x, axes, keepdim, loc);
}
Tensor argmin(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  return arg_extreme("argmin", false, x, axes, keepdim, loc);
}

namespace {
// The values are gathered, so that gather's gradients are theirs.
ValuesAndIndices extreme_at(const char* name, bool greatest, const Tensor& x, int64_t axis, bool keepdim, Loc loc) {
  const OpScope scope(name);
  if (x.defined() && x.rank() == 0) {
    normalize_axis(name, axis, 1, loc);
    return {x, zeros({}, DType::i64, x.device(), loc)};
  }
  const Tensor places = arg_extreme(name, greatest, x, Axes{axis}, true, loc);
  const Tensor values = gather(x, axis, places, loc);
  if (keepdim) return {values, places};
  return {values.squeeze(axis, loc), places.squeeze(axis, loc)};
}
}  // namespace

ValuesAndIndices max(const Tensor& x, int64_t axis, bool keepdim, Loc loc) {
  return extreme_at("max", true, x, axis, keepdim, loc);
}
ValuesAndIndices min(const Tensor& x, int64_t axis, bool keepdim, Loc loc) {
  return extreme_at("min", false, x, axis, keepdim, loc);
}

}  // namespace flame
