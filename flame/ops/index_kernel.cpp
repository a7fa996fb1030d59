// The two ops behind advanced indexing. Every place is computed and checked before anything is written; then slices are
// copied, or written so that no two threads share an element and the order at each is that of the index.
#include <algorithm>

#include "flame/fuse/scalar_math.h"
#include "flame/ops/create.h"
#include "flame/ops/device_index_internal.h"
#include "flame/ops/gather_internal.h"
#include "flame/ops/index_internal.h"
#include "flame/ops/pointwise.h"

namespace flame {
namespace {

Shape rest_of(const Dims& d, int from) {
  Dims out;
  for (int i = from; i < d.rank(); ++i) out.push_back(d[i]);
  return out;
}

// Where in a tensor each entry of the index tensors points, in elements.
class Places {
 public:
  Places(const IndexList& list, std::span<const Meta> index, const Meta& x) : at_(index[0].shape) {
    if (at_.empty()) at_.push_back(1);
    for (int j = 0; j < list.count(); ++j) {
      Strides st = index[static_cast<size_t>(j)].strides;
      if (st.empty()) st.push_back(0);
      axes_.push_back({{list.op, static_cast<int>(list.axes[j]), x.shape[j], list.wraps}, x.strides[j], {st}});
      reach_ += x.shape[j] ? (x.shape[j] - 1) * std::abs(x.strides[j]) : 0;
    }
  }
  int64_t count() const { return numel(at_); }
  int64_t reach() const { return reach_; }  // all places lie in [0, reach) if no stride is negative

  // Throws OutOfRange before a place beyond the tensor is used.
  void compute(const void* const* index, int64_t* out) const {
    const int64_t n = at_.back(), rows = n ? count() / n : 0;
    for (size_t j = 0; j < axes_.size(); ++j) {
      const Axis& a = axes_[j];
      parallel_for(rows, std::max<int64_t>(1, elements_per_piece / std::max<int64_t>(n, 1)),
                   [&](int64_t begin, int64_t end) {
                     RowWalk<1> walk(at_, a.index, begin);
                     for (int64_t row = begin; row < end; ++row, walk.next()) {
                       const int64_t* k = static_cast<const int64_t*>(index[j]) + walk.at[0];
                       int64_t* o = out + row * n;
                       const int64_t by = a.index[0].back();
                       for (int64_t i = 0; i < n; ++i) o[i] = (j ? o[i] : 0) + a.target(k[i * by]) * a.stride;
                     }
                   });
    }
  }

 private:
  struct Axis {
    Target target;
    int64_t stride;
    std::array<Strides, 1> index;
  };
  Shape at_;
  std::vector<Axis> axes_;
  int64_t reach_ = 1;
};

// Calls fn(element of a, element of b) for rows [begin, end) and columns [first, last) of two slices.
template <class F>
void each_element(const JoinedAxes& rest, int64_t begin, int64_t end, int64_t first, int64_t last, F&& fn) {
  const int64_t a = rest.strides[0].back(), b = rest.strides[1].back();
  const auto columns = [&](int64_t x, int64_t y) {
    if (a == 1 && b == 1)
      for (int64_t i = first; i < last; ++i) fn(x + i, y + i);
    else
      for (int64_t i = first; i < last; ++i) fn(x + i * a, y + i * b);
  };
  if (rest.shape.rank() == 1) return columns(0, 0);
  RowWalk<2> walk(rest.shape, rest.strides, begin);
  for (int64_t row = begin; row < end; ++row, walk.next()) columns(walk.at[0], walk.at[1]);
}

class IndexGet final : public Op {
 public:
  explicit IndexGet(const IndexList& list) : list_(list) { list_.index.clear(); }
  const char* name() const override { return list_.op; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    Shape out = in[1].shape();
    for (int64_t n : rest_of(in[0].shape(), static_cast<int>(in.size()) - 1)) out.push_back(n);
    return {contiguous_meta(in[0].dtype(), out)};
  }
  void key(Key& k) const override { k << "get" << list_.axes << list_.wraps; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    const int k = static_cast<int>(in.size()) - 1;
    const Places places(named(k), in.subspan(1), in[0]);
    const Shape rest = rest_of(in[0].shape, k);
    const JoinedAxes slice(rest, contiguous_strides(rest), rest_of(in[0].strides, k));
    const auto buffer = static_cast<size_t>(k) + 1;
    return visit_size(size_of(out[0].dtype), [&](auto t) {
      using T = decltype(t);
      return make_ref<Plan>(
          name(),
          [=](const Run& r) {
            int64_t* at = static_cast<int64_t*>(r.workspace);
            places.compute(r.buffers + 1, at);
            copy_slices(slice, places.count(), at, static_cast<const T*>(r.buffers[0]),
                        static_cast<T*>(r.buffers[buffer]));
          },
          static_cast<size_t>(places.count()) * sizeof(int64_t));
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const size_t k = in.size() - 1;
    const DeviceGet get(d, DeviceWalk::of_list(list_.op, list_.axes, list_.wraps, in.subspan(1), out[0], in[0]),
                        size_of(out[0].dtype));
    return make_ref<Plan>(name(), [get, k](const Run& r) { get(r.buffers[0], r.buffers + 1, r.buffers[k + 1]); });
  }
  bool saves_input(int i) const override { return i > 0; }
  void vjp(Vjp& v) const override;

 private:
  IndexList list_;  // without the tensors

  IndexList named(int k) const {
    IndexList l = list_;
    l.index.resize(static_cast<size_t>(k));
    return l;
  }
  template <class T>
  static void copy_slices(const JoinedAxes& slice, int64_t count, const int64_t* at, const T* x, T* out) {
    const int64_t rows = slice.rows(), n = slice.columns(), size = rows * n;
    if (size == 0) return;
    if (size == 1)
      return parallel_for(count, elements_per_piece, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) out[b] = x[at[b]];
      });
    const bool dense = slice.strides[0].back() == 1 && slice.strides[1].back() == 1;
    parallel_for(count * rows, std::max<int64_t>(1, elements_per_piece / n), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end;) {
        const int64_t b = i / rows, row = i % rows, last = std::min(rows, row + end - i);
        const T* from = x + at[b];
        T* to = out + b * size;
        if (rows == 1 && dense && n > 4) std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
        else each_element(slice, row, last, 0, n, [&](int64_t o, int64_t s) { to[o] = from[s]; });
        i += last - row;
      }
    });
  }
};

// (value, index.., x) -> x with value at index; without x: zeros of a shape instead.
class IndexPut final : public Op {
 public:
  IndexPut(const IndexList& list, PutMode mode, const Shape& shape, bool onto_zeros)
      : list_(list), mode_(mode), shape_(shape), onto_zeros_(onto_zeros) {
    for (Tensor& t : list_.index) t = Tensor();
  }
  const char* name() const override { return list_.op; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {{in[0].dtype(), shape_,
             onto_zeros_ ? contiguous_strides(shape_) : dense_strides_like(shape_, in.back().strides())}};
  }
  void key(Key& k) const override {
    k << "put" << list_.axes << list_.wraps << list_.distinct << mode_ << shape_ << onto_zeros_;
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    if (mode_ == PutMode::assign)
      return visit_size(size_of(out[0].dtype),
                        [&](auto t) { return plan<decltype(t)>(in, out[0], [](auto, auto s) { return s; }); });
    return visit_dtype(out[0].dtype, [&](auto t) -> Ref<Plan> {
      using T = decltype(t);
      if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>)
        return plan<T>(in, out[0], [](T e, T s) { return kernels::plus(e, s); });
      else fail<NotImplemented>(Loc::current(), "{}: no kernel that adds {} on cpu", name(), out[0].dtype);
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const DType t = out[0].dtype;
    const bool adds = mode_ == PutMode::add;
    if (adds && t == DType::boolean)
      fail<NotImplemented>(Loc::current(), "{}: no kernel that adds {} on {}", name(), t, d.name());
    const size_t k = static_cast<size_t>(list_.count()), result = in.size();
    const DevicePut put(d, DeviceWalk::of_list(list_.op, list_.axes, list_.wraps, in.subspan(1, k), in[0], out[0]),
                        adds ? Combine::add : Combine::assign, t,
                        {shape_, out[0].strides, onto_zeros_ ? out[0].strides : in.back().strides, onto_zeros_},
                        list_.distinct);
    return make_ref<Plan>(
        name(),
        [put, result, onto_zeros = onto_zeros_](const Run& r) {
          put(r.buffers[0], r.buffers + 1, onto_zeros ? nullptr : r.buffers[result - 1], r.buffers[result],
              r.workspace);
        },
        put.workspace());
  }
  bool saves_input(int i) const override { return i > 0 && i <= list_.count(); }
  void vjp(Vjp& v) const override {
    const Loc& loc = v.call_site();
    const Tensor g = v.grad(0);
    IndexList list = list_;
    for (int j = 0; j < list.count(); ++j) list.index[static_cast<size_t>(j)] = v.input(j + 1);
    if (v.needs(0)) {
      Tensor at = index_get(list, g, loc);
      if (mode_ == PutMode::assign && !list_.distinct) at = where(last_writers(list, at.rank(), loc), at, 0.0, loc);
      v.give(0, at);
    }
    if (const int base = list_.count() + 1; !onto_zeros_ && v.needs(base)) {
      if (mode_ == PutMode::add) return v.give(base, g);
      Shape value = list.at();
      for (int64_t n : rest_of(shape_, list_.count())) value.push_back(n);
      v.give(base, index_put(list, PutMode::assign, g, zeros({}, g.dtype(), g.device(), loc).expand(value, loc), loc));
    }
  }

 private:
  IndexList list_;  // with as many undefined tensors as there are
  PutMode mode_;
  Shape shape_;
  bool onto_zeros_;

  // True, in the index's shape with axes of size 1 up to `rank`, where nobody wrote the place later.
  Tensor last_writers(const IndexList& list, int rank, Loc loc) const {
    Shape ones = list.at(), heads;
    while (ones.rank() < rank) ones.push_back(1);
    for (int j = 0; j < list.count(); ++j) heads.push_back(shape_[j]);
    const Tensor own = arange(0, numel(list.at()), 1, DType::i64, list.index[0].device(), loc).reshape(list.at(), loc);
    std::vector<Tensor> in{own};
    in.insert(in.end(), list.index.begin(), list.index.end());
    const Tensor last = dispatch(make_ref<IndexPut>(list, PutMode::assign, heads, true), in, loc);
    return eq(index_get(list, last, loc), own, loc).reshape(ones, loc);
  }

  template <class T, class F>
  Ref<Plan> plan(std::span<const Meta> in, const Meta& out, F combine) const {
    const int k = list_.count();
    const Places places(list_, in.subspan(1, list_.index.size()), out);
    const int at_rank = in[1].shape.rank();
    Dims at_strides;
    for (int i = 0; i < at_rank; ++i) at_strides.push_back(in[0].strides[i]);
    const Shape at = in[1].shape;
    const JoinedAxes slice(rest_of(shape_, k), rest_of(out.strides, k), rest_of(in[0].strides, at_rank));
    const JoinedAxes entries(at, at_strides, at_strides);
    const auto element = sizeof(T);
    const StridedCopy copy(shape_, out.strides, onto_zeros_ ? out.strides : in.back().strides, element);
    const size_t result = in.size();
    return make_ref<Plan>(
        name(),
        [=, onto_zeros = onto_zeros_, n = static_cast<size_t>(numel(shape_))](const Run& r) {
          int64_t* to = static_cast<int64_t*>(r.workspace);
          int64_t* from = to + places.count();
          places.compute(r.buffers + 1, to);
          each_entry(entries, places.count(), from);
          if (onto_zeros) std::memset(r.buffers[result], 0, n * element);
          else copy(r.buffers[result], r.buffers[result - 1]);
          write(places, slice, to, from, static_cast<const T*>(r.buffers[0]), static_cast<T*>(r.buffers[result]),
                combine);
        },
        2 * static_cast<size_t>(places.count()) * sizeof(int64_t));
  }
  // Where the value of each entry begins.
  static void each_entry(const JoinedAxes& entries, int64_t count, int64_t* from) {
    if (count == 0) return;
    const int64_t n = entries.columns(), step = entries.strides[0].back();
    parallel_for(entries.rows(), std::max<int64_t>(1, elements_per_piece / n), [&](int64_t begin, int64_t end) {
      RowWalk<2> walk(entries.shape, entries.strides, begin);
      for (int64_t row = begin; row < end; ++row, walk.next())
        for (int64_t i = 0; i < n; ++i) from[row * n + i] = walk.at[0] + i * step;
    });
  }
  // Pieces own parts of every slice, or, where slices are small, places.
  template <class T, class F>
  static void write(const Places& places, const JoinedAxes& slice, const int64_t* to, const int64_t* from,
                    const T* value, T* out, F combine) {
    const int64_t count = places.count(), rows = slice.rows(), n = slice.columns();
    const auto part = [&](int64_t b, int64_t row, int64_t last_row, int64_t column, int64_t last_column) {
      T* o = out + to[b];
      const T* s = value + from[b];
      each_element(slice, row, last_row, column, last_column,
                   [&](int64_t i, int64_t j) { o[i] = combine(o[i], s[j]); });
    };
    if (rows == 0 || count == 0) return;
    if (rows >= 32)
      return parallel_for(rows, std::max<int64_t>(1, elements_per_piece / (n * count)),
                          [&](int64_t begin, int64_t end) {
                            for (int64_t b = 0; b < count; ++b) part(b, begin, end, 0, n);
                          });
    if (n >= 32)
      return parallel_for(n, std::max<int64_t>(16, elements_per_piece / (rows * count)),
                          [&](int64_t begin, int64_t end) {
                            for (int64_t b = 0; b < count; ++b) part(b, 0, rows, begin, end);
                          });
    const bool single = rows * n == 1;
    const int64_t grain = count * rows * n < 2 * elements_per_piece ? places.reach() : places.reach() / 64 + 1;
    parallel_for(places.reach(), grain, [&](int64_t begin, int64_t end) {
      if (single && end - begin == places.reach())
        for (int64_t b = 0; b < count; ++b) out[to[b]] = combine(out[to[b]], value[from[b]]);
      else
        for (int64_t b = 0; b < count; ++b)
          if (to[b] >= begin && to[b] < end) part(b, 0, rows, 0, n);
    });
  }
};

Tensor put(const IndexList& list, PutMode mode, const Shape& shape, const Tensor& x, const Tensor& value, Loc loc) {
  std::vector<Tensor> in{value};
  in.insert(in.end(), list.index.begin(), list.index.end());
  if (x.defined()) in.push_back(x);
  return dispatch_checked(make_ref<IndexPut>(list, mode, shape, !x.defined()), in, loc);
}
// 16-bit sums are kept in float32; a GPU's kernels do so by themselves.
bool widens(const Tensor& x) { return is_float(x.dtype()) && size_of(x.dtype()) == 2 && computed_by_host(x.device()); }

void IndexGet::vjp(Vjp& v) const {
  IndexList list = list_;
  const Loc& loc = v.call_site();
  for (int j = 0; j < list.axes.rank(); ++j) list.index.push_back(v.input(j + 1));
  const Tensor g = v.grad(0);
  const Tensor wide = widens(g) && !list.distinct ? g.to(DType::f32, loc) : g;
  const PutMode mode = list.distinct ? PutMode::assign : PutMode::add;
  v.give(0, put(list, mode, v.input_meta(0).shape, {}, wide, loc).to(g.dtype(), loc));
}

}  // namespace

Tensor index_get(const IndexList& list, const Tensor& x, Loc loc) {
  if (list.at().rank() + x.rank() - list.count() > max_rank)
    fail<ShapeError>(loc, "{}: an index of {} into {} gives a rank above the limit of {}", list.op, list.at(),
                     x.shape(), max_rank);
  std::vector<Tensor> in{x};
  in.insert(in.end(), list.index.begin(), list.index.end());
  return dispatch_checked(make_ref<IndexGet>(list), in, loc);
}

Tensor index_put(const IndexList& list, PutMode mode, const Tensor& x, const Tensor& value, Loc loc) {
  if (mode == PutMode::add && widens(x))
    return put(list, mode, x.shape(), x.to(DType::f32, loc), value.to(DType::f32, loc), loc).to(x.dtype(), loc);
  return put(list, mode, x.shape(), x, value, loc);
}

}  // namespace flame
