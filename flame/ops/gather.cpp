// gather and its opposite, adding at indices into zeros; index_select and embedding are gathers by an expanded index.
#include "flame/ops/gather.h"

#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/samples_internal.h"
#include "flame/ops/strided_internal.h"

namespace flame {
namespace {

struct OutOfRange : IndexError {
  OutOfRange(int64_t value, int64_t size)
      : IndexError(fmt::format("index {} is out of range for size {}", value, size), Loc::current()), value(value) {}
  int64_t value;
};
int64_t checked(int64_t i, int64_t size) {
  if (i < 0 || i >= size) throw OutOfRange(i, size);
  return i;
}

// Kernels move whole elements of 1, 2, 4 or 8 bytes.
template <class F>
auto visit_size(size_t element, F&& fn) {
  switch (element) {
    case 1: return fn(uint8_t{});
    case 2: return fn(uint16_t{});
    case 4: return fn(uint32_t{});
    default: return fn(uint64_t{});
  }
}

// Both ops walk the index row by row, beside a tensor of the index's shape ("small") and one that it points into ("big").
struct Walk {
  Shape shape;
  std::array<Strides, 3> strides;  // small, index, big without its walk along axis
  int axis;
  int64_t size, step;  // of the big tensor along axis

  Walk(const Meta& small, const Meta& index, const Meta& big, int axis)
      : shape(index.shape),
        strides{small.strides, index.strides, big.strides},
        axis(axis),
        size(big.shape[axis]),
        step(big.strides[axis]) {
    strides[2][axis] = 0;
  }
  int64_t columns() const { return shape.back(); }
  int64_t rows() const { return columns() ? numel(shape) / columns() : 0; }
};

template <class T>
void gather_rows(const Walk& w, const T* x, const int64_t* index, T* out) {
  const int64_t n = w.columns(), to = w.strides[0].back(), by = w.strides[1].back(), from = w.strides[2].back();
  parallel_for(w.rows(), std::max<int64_t>(1, elements_per_piece / std::max<int64_t>(n, 1)),
               [&](int64_t begin, int64_t end) {
                 RowWalk<3> walk(w.shape, w.strides, begin);
                 for (int64_t r = begin; r < end; ++r, walk.next()) {
                   T* o = out + walk.at[0];
                   const int64_t* k = index + walk.at[1];
                   const T* s = x + walk.at[2];
                   if (by == 0) {  // one index a row: index_select, embedding
                     s += checked(*k, w.size) * w.step;
                     if (to == 1 && from == 1) std::memcpy(o, s, static_cast<size_t>(n) * sizeof(T));
                     else
                       for (int64_t i = 0; i < n; ++i) o[i * to] = s[i * from];
                   } else {
                     for (int64_t i = 0; i < n; ++i) o[i * to] = s[i * from + checked(k[i * by], w.size) * w.step];
                   }
                 }
               });
}

// Pieces never share an element of `out`: rows do not if the axis is the last one, columns do not otherwise.
template <class T>
void scatter_rows(const Walk& w, const T* src, const int64_t* index, T* out) {
  const int64_t from = w.strides[0].back(), by = w.strides[1].back(), to = w.strides[2].back();
  const auto add = [&](int64_t row, int64_t last_row, int64_t column, int64_t last_column) {
    RowWalk<3> walk(w.shape, w.strides, row);
    for (; row < last_row; ++row, walk.next()) {
      const T* s = src + walk.at[0];
      const int64_t* k = index + walk.at[1];
      T* o = out + walk.at[2];
      for (int64_t i = column; i < last_column; ++i) {
        T& e = o[i * to + checked(k[i * by], w.size) * w.step];
        e = static_cast<T>(e + s[i * from]);
      }
    }
  };
  const int64_t rows = w.rows(), n = w.columns();
  if (rows == 0) return;
  if (w.axis == w.shape.rank() - 1)
    parallel_for(rows, std::max<int64_t>(1, elements_per_piece / n),
                 [&](int64_t begin, int64_t end) { add(begin, end, 0, n); });
  else
    parallel_for(n, std::max<int64_t>(8, elements_per_piece / rows),
                 [&](int64_t begin, int64_t end) { add(0, rows, begin, end); });
}

// (index, src) -> zeros of a shape, plus src at index.
class ScatterZeros final : public Op {
 public:
  ScatterZeros(const Shape& shape, int axis) : shape_(shape), axis_(axis) {}
  const char* name() const override { return "scatter_add"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[1].dtype(), shape_)};
  }
  void key(Key& k) const override { k << shape_ << axis_; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    const Walk walk(in[1], in[0], out[0], axis_);
    return visit_dtype(in[1].dtype, [&](auto t) -> Ref<Plan> {
      using T = decltype(t);
      if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>)
        return make_ref<Plan>(name(), [walk, n = static_cast<size_t>(numel(shape_))](const Run& r) {
          std::memset(r.buffers[2], 0, n * sizeof(T));
          scatter_rows(walk, static_cast<const T*>(r.buffers[1]), static_cast<const int64_t*>(r.buffers[0]),
                       static_cast<T*>(r.buffers[2]));
        });
      else fail<NotImplemented>(Loc::current(), "scatter_add: no kernel for {} on cpu", in[1].dtype);
    });
  }
  bool saves_input(int i) const override { return i == 0; }
  void vjp(Vjp& v) const override { v.give(1, gather(v.grad(0), axis_, v.input(0), v.call_site())); }

 private:
  Shape shape_;
  int axis_;
};

// Runs an op whose kernel may meet a bad index, and reports it at the caller's line.
Tensor dispatch_checked(Ref<Op> op, std::initializer_list<Tensor> in, const char* name, int axis, int64_t size,
                        Loc loc) {
  try {
    return dispatch(std::move(op), in, loc);
  } catch (const OutOfRange& e) {
    fail<IndexError>(loc, "{}: index {} is out of range for axis {} of size {}", name, e.value, axis, size);
  }
}

Tensor scatter_zeros(const Shape& shape, int axis, const Tensor& index, const Tensor& src, Loc loc) {
  const bool half = size_of(src.dtype()) == 2;  // 16-bit sums are kept in float32
  const Tensor wide = half ? src.to(DType::f32, loc) : src;
  const Tensor out =
      dispatch_checked(make_ref<ScatterZeros>(shape, axis), {index, wide}, "scatter_add", axis, shape[axis], loc);
  return out.to(src.dtype(), loc);
}

// (x, index) -> elements of x.
class Gather final : public Op {
 public:
  explicit Gather(int axis) : axis_(axis) {}
  const char* name() const override { return "gather"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[0].dtype(), in[1].shape())};
  }
  void key(Key& k) const override { k << axis_; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    const Walk walk(out[0], in[1], in[0], axis_);
    return visit_size(size_of(in[0].dtype), [&](auto t) {
      using T = decltype(t);
      return make_ref<Plan>(name(), [walk](const Run& r) {
        gather_rows(walk, static_cast<const T*>(r.buffers[0]), static_cast<const int64_t*>(r.buffers[1]),
                    static_cast<T*>(r.buffers[2]));
      });
    });
  }
  bool saves_input(int i) const override { return i == 1; }
  void vjp(Vjp& v) const override {
    v.give(0, scatter_zeros(v.input_meta(0).shape, axis_, v.input(1), v.grad(0), v.call_site()));
  }

 private:
  int axis_;
};

Tensor checked_index(const char* op, const Tensor& index, Loc loc) {
  if (index.dtype() != DType::i64 && index.dtype() != DType::i32)
    fail<DTypeError>(loc, "{}: expected an index of int64 or int32, got {}", op, index.dtype());
  return index.to(DType::i64, loc);
}

// Ranks equal, and the index no larger than x beside `axis`.
int checked_axis(const char* op, const Tensor& x, int64_t axis, const Tensor& index, Loc loc) {
  const int a = normalize_axis(op, axis, x.rank(), loc);
  bool fits = index.rank() == x.rank();
  for (int i = 0; fits && i < x.rank(); ++i) fits = i == a || index.shape()[i] <= x.shape()[i];
  if (!fits) fail<ShapeError>(loc, "{}: index {} does not fit into {} along axis {}", op, index.shape(), x.shape(), a);
  return a;
}

}  // namespace

Tensor gather(const Tensor& x, int64_t axis, const Tensor& index, Loc loc) {
  check_inputs("gather", {&x, &index}, loc);
  const int a = checked_axis("gather", x, axis, index, loc);
  return dispatch_checked(make_ref<Gather>(a), {x, checked_index("gather", index, loc)}, "gather", a, x.shape()[a],
                          loc);
}

Tensor scatter_add(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src, Loc loc) {
  check_inputs("scatter_add", {&x, &index, &src}, loc);
  const int a = checked_axis("scatter_add", x, axis, index, loc);
  if (src.shape() != index.shape())
    fail<ShapeError>(loc, "scatter_add: expected src of the index's shape {}, got {}", index.shape(), src.shape());
  if (src.dtype() != x.dtype() || src.dtype() == DType::boolean)
    fail<DTypeError>(loc, "scatter_add: expected numbers of one dtype, got {} and {}", x.dtype(), src.dtype());
  return add(x, scatter_zeros(x.shape(), a, checked_index("scatter_add", index, loc), src, loc), loc);
}

Tensor index_select(const Tensor& x, int64_t axis, const Tensor& index, Loc loc) {
  check_inputs("index_select", {&x, &index}, loc);
  const int a = normalize_axis("index_select", axis, x.rank(), loc);
  if (index.rank() != 1) fail<ShapeError>(loc, "index_select: expected an index of rank 1, got {}", index.shape());
  Shape ones = Dims::filled(x.rank(), 1), out = x.shape();
  ones[a] = out[a] = index.numel();
  const Tensor wide = checked_index("index_select", index, loc).reshape(ones, loc).expand(out, loc);
  return dispatch_checked(make_ref<Gather>(a), {x, wide}, "index_select", a, x.shape()[a], loc);
}

Tensor embedding(const Tensor& weight, const Tensor& index, Loc loc) {
  check_inputs("embedding", {&weight, &index}, loc);
  check_room("embedding", index, loc);
  if (weight.rank() != 2) fail<ShapeError>(loc, "embedding: expected a weight of rank 2, got {}", weight.shape());
  const int64_t width = weight.shape()[1];
  const Tensor rows =
      checked_index("embedding", index, loc).reshape({index.numel(), 1}, loc).expand({index.numel(), width}, loc);
  Shape out = index.shape();
  out.push_back(width);
  return dispatch_checked(make_ref<Gather>(0), {weight, rows}, "embedding", 0, weight.shape()[0], loc)
      .reshape(out, loc);
}

namespace {
using Inputs = std::vector<Tensor>;

const RegisterOp registered_gather({
    .name = "gather",
    .signature = "gather(x, axis, index)",
    .formula = "out[i][j][k] = x[i][index[i][j][k]][k] for axis 1",
    .samples =
        [](DType t) {
          const auto along = [](int64_t axis) {
            return [axis](const Inputs& in) { return Inputs{gather(in[0], axis, in[1])}; };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({4, 5}, t), classes({3, 5}, 4)}, along(0), "rows, repeated indices", 1},
              {{transposed({4, 5}, t), classes({4, 7}, 5)}, along(1), "columns of a transpose", 1},
              {{strided({3, 4, 5}, t), classes({3, 6, 5}, 4)}, along(-2), "middle axis of a strided view", 1},
              {{uniform({4, 5}, t), classes({0, 5}, 4)}, along(0), "empty index", 1},
          };
        },
});
const RegisterOp registered_scatter({
    .name = "scatter_add",
    .signature = "scatter_add(x, axis, index, src)",
    .formula = "out = x; out[i][index[i][j][k]][k] += src[i][j][k] for axis 1",
    .samples =
        [](DType t) {
          const auto along = [](int64_t axis, const Tensor& index) {
            return [axis, index](const Inputs& in) { return Inputs{scatter_add(in[0], axis, index, in[1])}; };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({3, 5}, t, 1), uniform({6, 5}, t, 2)}, along(0, classes({6, 5}, 3)), "rows, repeated indices"},
              {{transposed({4, 5}, t, 1), strided({4, 7}, t, 2)}, along(1, classes({4, 7}, 5)), "columns"},
              {{uniform({2, 3, 4}, t, 1), transposed({2, 5, 4}, t, 2)}, along(1, classes({2, 5, 4}, 3)), "middle axis"},
          };
        },
});
const RegisterOp registered_embedding({
    .name = "embedding",
    .signature = "embedding(weight, index)",
    .formula = "out[..., :] = weight[index[...], :]",
    .samples =
        [](DType t) {
          const auto fn = [](const Inputs& in) { return Inputs{embedding(in[0], in[1])}; };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({7, 5}, t), classes({2, 3}, 7)}, fn, "matrix of indices", 1},
              {{transposed({4, 3}, t), classes({}, 4)}, fn, "0-d index", 1},
              {{strided({4, 3}, t), classes({0}, 4)}, fn, "no index", 1},
          };
        },
});
}  // namespace

}  // namespace flame
