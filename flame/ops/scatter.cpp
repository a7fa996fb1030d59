// Writing by index along one axis: one kernel that assigns or combines, row by row in the order of the index.
#include "flame/ops/scatter.h"

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/op_scope.h"
#include "flame/fuse/scalar_math.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/device_index_internal.h"
#include "flame/ops/gather.h"
#include "flame/ops/gather_internal.h"
#include "flame/ops/scatter_internal.h"

namespace flame {
namespace {

// What becomes of element e when s meets it. NaN stays.
struct Assign {
  template <class T>
  T operator()(T, T s) const {
    return s;
  }
};
struct Plus {
  template <class T>
  T operator()(T e, T s) const {
    return kernels::plus(e, s);
  }
};
struct Times {
  template <class T>
  T operator()(T e, T s) const {
    return kernels::times(e, s);
  }
};
struct Greatest {
  template <class T>
  T operator()(T e, T s) const {
    return s > e || s != s ? s : e;
  }
};
struct Least {
  template <class T>
  T operator()(T e, T s) const {
    return s < e || s != s ? s : e;
  }
};

// Pieces never share an element of `out`: rows do not if the axis is the last one, columns do not otherwise.
template <class Combine, class T>
void scatter_rows(const IndexWalk& w, const T* src, const int64_t* index, T* out) {
  const int64_t from = w.strides[0].back(), by = w.strides[1].back(), to = w.strides[2].back();
  const auto combine = [&](int64_t row, int64_t last_row, int64_t column, int64_t last_column) {
    RowWalk<3> walk(w.shape, w.strides, row);
    for (; row < last_row; ++row, walk.next()) {
      const T* s = src + walk.at[0];
      const int64_t* k = index + walk.at[1];
      T* o = out + walk.at[2];
      if (by == 0) {  // one index a row: the gradient of index_select and embedding
        o += w.target(*k) * w.step;
        for (int64_t i = column; i < last_column; ++i) o[i * to] = Combine{}(o[i * to], s[i * from]);
      } else {
        for (int64_t i = column; i < last_column; ++i) {
          T& e = o[i * to + w.target(k[i * by]) * w.step];
          e = Combine{}(e, s[i * from]);
        }
      }
    }
  };
  const int64_t rows = w.rows(), n = w.columns();
  if (rows == 0) return;
  if (w.target.axis == w.shape.rank() - 1)
    parallel_for(rows, std::max<int64_t>(1, elements_per_piece / n),
                 [&](int64_t begin, int64_t end) { combine(begin, end, 0, n); });
  else
    parallel_for(n, std::max<int64_t>(8, elements_per_piece / rows),
                 [&](int64_t begin, int64_t end) { combine(0, rows, begin, end); });
}

// (index, src, x) -> x with src at index; without x: zeros instead.
class Scatter final : public Op {
 public:
  Scatter(const char* name, ScatterMode mode, const Shape& shape, int axis, bool onto_zeros = false,
          bool behind = false)
      : name_(name), mode_(mode), shape_(shape), axis_(axis), onto_zeros_(onto_zeros), behind_(behind) {}
  Layout layout(int input, const Meta&) const override {
    return behind_ && input == 2 ? Layout::contiguous : Layout::any;
  }
  const char* name() const override { return name_; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[1].dtype(), shape_)};
  }
  void key(Key& k) const override { k << mode_ << shape_ << axis_ << onto_zeros_ << behind_; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    if (mode_ == ScatterMode::assign)
      return visit_size(size_of(out[0].dtype), [&](auto t) { return plan<Assign, decltype(t)>(in, out); });
    return visit_dtype(out[0].dtype, [&](auto t) -> Ref<Plan> {
      using T = decltype(t);
      if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {
        switch (mode_) {
          case ScatterMode::prod: return plan<Times, T>(in, out);
          case ScatterMode::amax: return plan<Greatest, T>(in, out);
          case ScatterMode::amin: return plan<Least, T>(in, out);
          default: return plan<Plus, T>(in, out);
        }
      } else {
        fail<NotImplemented>(Loc::current(), "{}: no kernel for {} on cpu", name_, out[0].dtype);
      }
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const DType t = out[0].dtype;
    if (mode_ != ScatterMode::assign && t == DType::boolean)
      fail<NotImplemented>(Loc::current(), "{}: no kernel for {} on {}", name_, t, d.name());
    constexpr Combine how[] = {Combine::assign, Combine::add, Combine::prod, Combine::amax, Combine::amin};
    const DevicePut put(d, DeviceWalk::along(name_, axis_, in[1], in[0], out[0]), how[static_cast<int>(mode_)], t,
                        {shape_, out[0].strides, onto_zeros_ ? out[0].strides : in[2].strides, onto_zeros_, behind_},
                        false, DeviceRows::along(name_, axis_, in[1], in[0], out[0]));
    return make_ref<Plan>(
        name_,
        [put, onto_zeros = onto_zeros_](const Run& r) {
          put(r.buffers[1], r.buffers, onto_zeros ? nullptr : r.buffers[2], r.buffers[onto_zeros ? 2 : 3], r.workspace);
        },
        put.workspace());
  }
  bool saves_input(int i) const override { return i == 0; }
  void vjp(Vjp& v) const override {
    const Tensor g = v.grad(0), index = v.input(0);
    const Loc& loc = v.call_site();
    if (v.needs(1)) {
      Tensor at = gather(g, axis_, index, loc);
      if (mode_ == ScatterMode::assign) at = where(last_writers(shape_, axis_, index, loc), at, 0.0, loc);
      v.give(1, at);
    }
    if (!onto_zeros_ && v.needs(2)) v.give(2, mode_ == ScatterMode::assign ? scatter(g, axis_, index, 0.0, loc) : g);
  }

 private:
  const char* name_;
  ScatterMode mode_;
  Shape shape_;
  int axis_;
  bool onto_zeros_, behind_;

  template <class Combine, class T>
  Ref<Plan> plan(std::span<const Meta> in, std::span<const Meta> out) const {
    const IndexWalk walk(name_, in[1], in[0], out[0], axis_);
    const auto body = [walk](const Run& r, void* out) {
      scatter_rows<Combine>(walk, static_cast<const T*>(r.buffers[1]), static_cast<const int64_t*>(r.buffers[0]),
                            static_cast<T*>(out));
    };
    if (onto_zeros_)
      return make_ref<Plan>(name_, [body, n = static_cast<size_t>(numel(shape_))](const Run& r) {
        std::memset(r.buffers[2], 0, n * sizeof(T));
        body(r, r.buffers[2]);
      });
    return make_ref<Plan>(name_,
                          [body, copy = StridedCopy(shape_, out[0].strides, in[2].strides, sizeof(T))](const Run& r) {
                            copy(r.buffers[3], r.buffers[2]);
                            body(r, r.buffers[3]);
                          });
  }
  // True for those entries of the index whose element nobody wrote after them.
  static Tensor last_writers(const Shape& shape, int axis, const Tensor& index, Loc loc) {
    const Tensor own = arange(0, index.numel(), 1, DType::i64, index.device(), loc).reshape(index.shape(), loc);
    const Tensor last = dispatch(make_ref<Scatter>("scatter", ScatterMode::assign, shape, axis, true),
                                 {index, own.contiguous(loc)}, loc);
    return eq(gather(last, axis, index, loc), own, loc);
  }
};

// Sums and products of 16-bit numbers are kept in float32; a GPU's kernels do so by themselves.
Tensor widened(const Tensor& x, Loc loc) {
  const bool narrow = is_float(x.dtype()) && size_of(x.dtype()) == 2;
  return narrow && computed_by_host(x.device()) ? x.to(DType::f32, loc) : x;
}

// What the functions along an axis have in common: arguments of rank 0 get an axis, and all is checked.
struct Arguments {
  Tensor x, index, src;
  int axis;
  Arguments(const char* op, const Tensor& self, int64_t along, const Tensor& at, const Tensor& from, Loc loc)
      : x(with_axis(self, loc)),
        index(checked_index(op, with_axis(at, loc), loc)),
        src(with_axis(from, loc)),
        axis(checked_axis(op, x, along, index, loc)) {
    if (src.dtype() != x.dtype())
      fail<DTypeError>(loc, "{}: expected numbers of one dtype, got {} and {}", op, x.dtype(), src.dtype());
    bool fits = src.rank() == index.rank();
    for (int i = 0; fits && i < index.rank(); ++i) fits = index.shape()[i] <= src.shape()[i];
    if (!fits)
      fail<ShapeError>(loc, "{}: expected src at least as large as the index {}, got {}", op, index.shape(),
                       src.shape());
    for (int i = 0; i < index.rank(); ++i) src = src.narrow(i, 0, index.shape()[i], loc);
  }
};

Tensor combined(const char* op, ScatterMode mode, const Arguments& a, Loc loc) {
  return dispatch_checked(make_ref<Scatter>(op, mode, a.x.shape(), a.axis),
                          {a.index, widened(a.src, loc), widened(a.x, loc)}, loc)
      .to(a.x.dtype(), loc);
}

}  // namespace

Tensor scatter_behind(const char* op, const Tensor& base, int axis, const Tensor& index, const Tensor& src, Loc loc) {
  const Ref<Op> sum = make_ref<Scatter>(op, ScatterMode::sum, base.shape(), axis, false, true);
  return dispatch_checked(sum, {index.detach(), src.detach(), base.detach()}, loc);
}
Tensor scatter_zeros(const char* op, const Shape& shape, int axis, const Tensor& index, const Tensor& src, Loc loc) {
  return dispatch_checked(make_ref<Scatter>(op, ScatterMode::sum, shape, axis, true), {index, widened(src, loc)}, loc)
      .to(src.dtype(), loc);
}

Tensor scatter_combined(const char* op, ScatterMode mode, const Tensor& x, int64_t axis, const Tensor& index,
                        const Tensor& src, Loc loc) {
  const OpScope scope(op);
  check_inputs(op, {&x, &index, &src}, loc);
  if (mode != ScatterMode::assign && x.dtype() == DType::boolean)
    fail<DTypeError>(loc, "{}: expected numbers, got bool", op);
  const Arguments a(op, x, axis, index, src, loc);
  const Tensor out = mode == ScatterMode::assign ? dispatch_checked(make_ref<Scatter>(op, mode, a.x.shape(), a.axis),
                                                                    {a.index, a.src, a.x}, loc)
                                                 : combined(op, mode, a, loc);
  return out.reshape(x.shape(), loc);
}

Tensor scatter(const Tensor& x, int64_t axis, const Tensor& index, const Arg& src, Loc loc) {
  const OpScope scope("scatter");
  check_inputs("scatter", {&x, &index}, loc);
  const Tensor from =
      src.tensor() ? *src.tensor() : full({}, src.scalar(), x.dtype(), x.device(), loc).expand(index.shape(), loc);
  return scatter_combined("scatter", ScatterMode::assign, x, axis, index, from, loc);
}

Tensor scatter_add(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src, Loc loc) {
  if (const AutocastCall cast{"scatter_add", {&x, &src}})
    return scatter_add(cast(x, loc), axis, index, cast(src, loc), loc);
  return scatter_combined("scatter_add", ScatterMode::sum, x, axis, index, src, loc);
}

}  // namespace flame
