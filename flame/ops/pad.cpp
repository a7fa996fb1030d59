// Padding in every mode by one kernel: tables say of each axis which element stands where. The gradient folds the border
// back onto the elements that it repeats.
#include "flame/ops/pad.h"

#include <cmath>
#include <algorithm>
#include <limits>

#include "flame/core/format.h"
#include "flame/device/cpu/strided_copy.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/pad_device_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"
#include "flame/ops/view.h"
#include "flame/ops/view_internal.h"

namespace flame {
namespace {

constexpr const char* names[] = {"constant", "reflect", "replicate", "circular"};

// Which element of an axis of size n stands at `i` of the padded one; -1: none.
int64_t source_of(PadMode mode, int64_t i, int64_t before, int64_t n) {
  const int64_t j = i - before;
  if (j >= 0 && j < n) return j;
  switch (mode) {
    case PadMode::reflect: return j < 0 ? -j : 2 * (n - 1) - j;
    case PadMode::replicate: return j < 0 ? 0 : n - 1;
    case PadMode::circular: return j < 0 ? j + n : j - n;
    case PadMode::constant: break;
  }
  return -1;
}

// How the rows of a padded tensor are made, in the order of its memory.
template <class T>
class PaddedRows {
 public:
  PaddedRows(PadMode mode, const Meta& in, const Meta& out, const Dims& before) {
    Dims order;  // axes, slowest first
    for (int i = 0; i < out.shape.rank(); ++i) {
      int at = order.rank();
      while (at > 0 && out.strides[static_cast<int>(order[at - 1])] < out.strides[i]) --at;
      order.insert(at, i);
    }
    for (int64_t axis : order) {
      const int a = static_cast<int>(axis);
      sizes_.push_back(out.shape[a]);
      std::vector<int64_t> from;
      for (int64_t i = 0; i < out.shape[a]; ++i) {
        const int64_t j = source_of(mode, i, before[a], in.shape[a]);
        from.push_back(j < 0 ? none : j * in.strides[a]);
      }
      from_.push_back(std::move(from));
    }
    const int last = static_cast<int>(order.back());
    before_ = before[last];
    inner_ = in.shape[last];
    step_ = in.strides[last];
  }

  void make(const T* x, T* out, T value) const {
    const int64_t n = sizes_.back();
    if (numel(sizes_) == 0) return;
    parallel_for(numel(sizes_) / n, std::max<int64_t>(1, elements_per_piece / n), [&](int64_t begin, int64_t end) {
      Dims at = Dims::filled(sizes_.rank(), 0);
      int64_t rest = begin;
      for (int d = sizes_.rank() - 2; d >= 0; --d) {
        at[d] = rest % sizes_[d];
        rest /= sizes_[d];
      }
      for (int64_t row = begin; row < end; ++row) {
        int64_t start = 0;
        for (int d = 0; d + 1 < sizes_.rank() && start != none; ++d) {
          const int64_t from = from_[static_cast<size_t>(d)][static_cast<size_t>(at[d])];
          start = from == none ? none : start + from;
        }
        if (start == none || inner_ == 0) std::fill(out + row * n, out + (row + 1) * n, value);
        else make_row(x + start, out + row * n, n, value);
        for (int d = sizes_.rank() - 2; d >= 0 && ++at[d] == sizes_[d]; --d) at[d] = 0;
      }
    });
  }

 private:
  static constexpr int64_t none = std::numeric_limits<int64_t>::min();
  Shape sizes_;
  std::vector<std::vector<int64_t>> from_;  // by axis: where an index is read, in elements
  int64_t before_, inner_, step_;           // of the last axis

  void make_row(const T* x, T* out, int64_t n, T value) const {
    const std::vector<int64_t>& from = from_.back();
    const auto border = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t j = from[static_cast<size_t>(i)];
        out[i] = j == none ? value : x[j];
      }
    };
    border(0, before_);
    if (step_ == 1) std::memcpy(static_cast<void*>(out + before_), x, static_cast<size_t>(inner_) * sizeof(T));
    else border(before_, before_ + inner_);
    border(before_ + inner_, n);
  }
};

// What stands around, in the dtype of a launch.
template <class T>
T border(const Run& r) {
  if constexpr (std::is_same_v<T, bool>) return r.scalars[0].f != 0;
  else if constexpr (std::is_integral_v<T>) return static_cast<T>(r.scalars[1].i);
  else if constexpr (sizeof(T) == 2) return T(static_cast<float>(r.scalars[0].f));
  else return static_cast<T>(r.scalars[0].f);
}

// A tensor inside a larger one.
class Pad final : public Op {
 public:
  Pad(PadMode mode, const Shape& shape, const Dims& before, Scalar value)
      : mode_(mode), shape_(shape), before_(before), value_(value) {}
  const char* name() const override { return "pad"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {{in[0].dtype(), shape_, dense_strides_like(shape_, in[0].strides())}};
  }
  void key(Key& k) const override { k << mode_ << shape_ << before_; }
  std::vector<Word> scalars() const override {
    const bool floating = value_.kind == Scalar::Kind::floating;
    const bool whole =
        !floating || std::abs(value_.value) < 0x1p63;  // not Inf or NaN, which only floats are padded with
    return {word(floating ? value_.value : static_cast<double>(value_.integral)),
            word(floating && whole ? static_cast<int64_t>(value_.value) : value_.integral)};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    return visit_dtype(in[0].dtype, [&](auto t) -> Ref<Plan> {
      using T = decltype(t);
      return make_ref<Plan>(name(), [rows = PaddedRows<T>(mode_, in[0], out[0], before_)](const Run& r) {
        rows.make(static_cast<const T*>(r.buffers[0]), static_cast<T*>(r.buffers[1]), border<T>(r));
      });
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    if (numel(shape_) == 0) return make_ref<Plan>(name(), [](const Run&) {});
    return visit_dtype(in[0].dtype, [&](auto t) -> Ref<Plan> {
      using T = decltype(t);
      return make_ref<Plan>(name(), [walk = DevicePad(d, mode_, in[0], out[0], before_)](const Run& r) {
        const T value = border<T>(r);
        walk(r.buffers[0], r.buffers[1], &value, sizeof value);
      });
    });
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override {
    Tensor g = v.grad(0);
    for (int i = 0; i < shape_.rank(); ++i) g = folded(g, i, v.input_meta(0).shape[i], v.call_site());
    v.give(0, g);
  }

 private:
  PadMode mode_;
  Shape shape_;
  Dims before_;
  Scalar value_;

  // What stands around the n elements of an axis is added to where it came from.
  Tensor folded(const Tensor& g, int axis, int64_t n, const Loc& loc) const {
    const int64_t before = before_[axis], after = shape_[axis] - before - n;
    const Tensor inner = sliced("pad", g, axis, {before, n, 1}, loc);
    if (mode_ == PadMode::constant) return inner;
    Tensor out = inner;
    const auto fold = [&](int64_t start, int64_t count) {
      if (count == 0) return;
      Tensor piece = sliced("pad", g, axis, {start, count, 1}, loc);
      if (mode_ == PadMode::replicate) piece = sum(piece, axis, true, loc);
      const int64_t to = source_of(mode_, start, before, n);
      out = add(out, slice_scatter(piece, inner.shape(), axis, to, mode_ == PadMode::reflect ? -1 : 1, loc), loc);
    };
    fold(0, before);
    fold(before + n, after);
    return out;
  }
};

struct Sides {
  int64_t before, after;
};
// What is taken away where a side is negative.
Tensor cropped(const Tensor& x, int axis, const Sides& s, Loc loc) {
  const int64_t first = std::max<int64_t>(0, -s.before);
  return sliced("pad", x, axis, {first, x.shape()[axis] - first - std::max<int64_t>(0, -s.after), 1}, loc);
}

void check_reach(const Tensor& x, PadMode mode, int axis, const Sides& s, Loc loc) {
  int64_t n = x.shape()[axis];
  if (mode == PadMode::circular) n += std::min<int64_t>(0, s.before) + std::min<int64_t>(0, s.after);
  const int64_t most = std::max(s.before, s.after);
  if (most <= 0) return;
  const bool fits = mode == PadMode::reflect ? most < n : mode == PadMode::circular ? most <= n : n > 0;
  if (!fits)
    fail<ShapeError>(loc, "pad: {} padding of {} and {} does not fit axis {} of size {}", names[static_cast<int>(mode)],
                     s.before, s.after, axis, n);
}

}  // namespace

Tensor pad(const Tensor& x, const std::vector<int64_t>& sizes, const PadOptions& o, Loc loc) {
  check_defined("pad", x, loc);
  if (sizes.size() % 2 != 0 || sizes.size() > 2 * static_cast<size_t>(x.rank()))
    fail<ShapeError>(loc, "pad: expected two sizes for each of at most {} axes, got {} sizes", x.rank(), sizes.size());
  std::vector<Sides> sides;
  for (size_t i = 0; i < sizes.size(); i += 2) {
    const int axis = x.rank() - 1 - static_cast<int>(i / 2);
    const Sides s{sizes[i], sizes[i + 1]};
    constexpr int64_t most = int64_t{1} << 60;
    if (std::max(s.before, s.after) > most || std::min(s.before, s.after) < -most ||
        std::min<int64_t>(s.before, 0) + std::min<int64_t>(s.after, 0) + x.shape()[axis] < 0 ||
        s.before + s.after + x.shape()[axis] < 0)
      fail<ShapeError>(loc, "pad: padding of {} and {} does not fit axis {} of size {}", s.before, s.after, axis,
                       x.shape()[axis]);
    if (o.mode != PadMode::constant) check_reach(x, o.mode, axis, s, loc);
    sides.push_back(s);
  }
  // As in PyTorch: what is taken away still counts for reflections, but not for a circle.
  const bool crop_first = o.mode == PadMode::constant || o.mode == PadMode::circular;
  Tensor inner = x;
  Dims before = Dims::filled(x.rank(), 0);
  const auto crop = [&](Tensor& t) {
    for (size_t i = 0; i < sides.size(); ++i) t = cropped(t, x.rank() - 1 - static_cast<int>(i), sides[i], loc);
  };
  if (crop_first) crop(inner);
  Shape shape = inner.shape();
  for (size_t i = 0; i < sides.size(); ++i) {
    const int axis = x.rank() - 1 - static_cast<int>(i);
    before[axis] = std::max<int64_t>(0, sides[i].before);
    shape[axis] += before[axis] + std::max<int64_t>(0, sides[i].after);
  }
  check_sizes("pad", shape, loc);
  Tensor out = shape == inner.shape() ? inner : dispatch(make_ref<Pad>(o.mode, shape, before, o.value), {inner}, loc);
  if (!crop_first) crop(out);
  return out;
}

namespace {
const RegisterOp registered({
    .name = "pad",
    .signature = "pad(x, sizes, {mode, value})",
    .formula = "x with elements before and after it along its last axes",
    .samples =
        [](DType t) {
          const auto with = [](std::vector<int64_t> sizes, PadMode mode, double value = 0) {
            return [=](const std::vector<Tensor>& in) {
              return std::vector<Tensor>{pad(in[0], sizes, {.mode = mode, .value = value})};
            };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({2, 3}, t)}, with({1, 2, 0, 1}, PadMode::constant, 1.5), "constant"},
              {{transposed({3, 4}, t)}, with({-1, 2, 1, -2}, PadMode::constant), "constant, negative"},
              {{uniform({0, 2}, t)}, with({1, 1, 2, 1}, PadMode::constant, -2), "constant around nothing"},
              {{channels_last({1, 2, 3, 4}, t)}, with({1, 1, 1, 1}, PadMode::constant), "constant, channels last"},
              {{strided({2, 5}, t)}, with({3, 4}, PadMode::reflect), "reflect"},
              {{uniform({2, 3, 4}, t)}, with({1, 3, 2, 1}, PadMode::reflect), "reflect, two axes"},
              {{transposed({2, 3}, t)}, with({3, 1, 1, 4}, PadMode::replicate), "replicate"},
              {{uniform({1, 3, 4}, t)}, with({4, 3, 0, 2}, PadMode::circular), "circular"},
              {{strided({2, 4}, t)}, with({-1, 2}, PadMode::circular), "circular, negative"},
              {{uniform({2, 5}, t)}, with({2, -1}, PadMode::reflect), "reflect, negative"},
          };
        },
});
}  // namespace

}  // namespace flame
