// Padding: a constant by one op that fills and copies, the other modes by joining pieces of the tensor along each axis.
#include "flame/ops/pad.h"

#include <algorithm>
#include <cmath>

#include "flame/core/format.h"
#include "flame/ops/cat.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/samples_internal.h"
#include "flame/ops/strided_internal.h"
#include "flame/ops/view.h"
#include "flame/ops/view_internal.h"

namespace flame {
namespace {

constexpr const char* names[] = {"constant", "reflect", "replicate", "circular"};

// A tensor inside a larger one, which is full of a number.
class PadConstant final : public Op {
 public:
  PadConstant(const Shape& shape, const Dims& before, Scalar value) : shape_(shape), before_(before), value_(value) {}
  const char* name() const override { return "pad"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {{in[0].dtype(), shape_, dense_strides_like(shape_, in[0].strides())}};
  }
  void key(Key& k) const override { k << shape_ << before_; }
  std::vector<Word> scalars() const override {
    return {word(value_.kind == Scalar::Kind::floating ? value_.value : static_cast<double>(value_.integral)),
            word(value_.kind == Scalar::Kind::floating ? static_cast<int64_t>(value_.value) : value_.integral)};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    int64_t skip = 0;
    for (int i = 0; i < shape_.rank(); ++i) skip += before_[i] * out[0].strides[i];
    return visit_dtype(in[0].dtype, [&](auto t) -> Ref<Plan> {
      using T = decltype(t);
      return make_ref<Plan>(
          name(), [n = numel(shape_), skip, empty = numel(in[0].shape) == 0,
                   copy = StridedCopy(in[0].shape, out[0].strides, in[0].strides, sizeof(T))](const Run& r) {
            T value;
            if constexpr (std::is_same_v<T, bool>) value = r.scalars[0].f != 0;
            else if constexpr (std::is_integral_v<T>) value = static_cast<T>(r.scalars[1].i);
            else if constexpr (sizeof(T) == 2) value = T(static_cast<float>(r.scalars[0].f));
            else value = static_cast<T>(r.scalars[0].f);
            T* out = static_cast<T*>(r.buffers[1]);
            parallel_for(n, elements_per_piece,
                         [&](int64_t begin, int64_t end) { std::fill(out + begin, out + end, value); });
            if (!empty) copy(out + skip, r.buffers[0]);
          });
    });
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override {
    Tensor g = v.grad(0);
    for (int i = 0; i < shape_.rank(); ++i)
      g = sliced("pad", g, i, {before_[i], v.input_meta(0).shape[i], 1}, v.call_site());
    v.give(0, g);
  }

 private:
  Shape shape_;
  Dims before_;
  Scalar value_;
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
  const int64_t n = x.shape()[axis], most = std::max(s.before, s.after);
  if (most <= 0) return;
  const bool fits = mode == PadMode::reflect ? most < n : mode == PadMode::circular ? most <= n : n > 0;
  if (!fits)
    fail<ShapeError>(loc, "pad: {} padding of {} and {} does not fit axis {} of size {}", names[static_cast<int>(mode)],
                     s.before, s.after, axis, n);
}

// x with its own elements around it along one axis.
Tensor surrounded(const Tensor& x, PadMode mode, int axis, const Sides& s, Loc loc) {
  const int64_t n = x.shape()[axis];
  const auto part = [&](int64_t start, int64_t count, int64_t step) {
    return sliced("pad", x, axis, {start, count, count > 1 ? step : 1}, loc);
  };
  const auto edge = [&](int64_t at, int64_t count) {
    Shape wide = x.shape();
    wide[axis] = count;
    return part(at, 1, 1).expand(wide, loc);
  };
  std::vector<Tensor> pieces;
  if (s.before > 0)
    pieces.push_back(mode == PadMode::reflect     ? part(s.before, s.before, -1)
                     : mode == PadMode::replicate ? edge(0, s.before)
                                                  : part(n - s.before, s.before, 1));
  pieces.push_back(x);
  if (s.after > 0)
    pieces.push_back(mode == PadMode::reflect     ? part(n - 2, s.after, -1)
                     : mode == PadMode::replicate ? edge(n - 1, s.after)
                                                  : part(0, s.after, 1));
  return pieces.size() == 1 ? x : cat(pieces, axis, loc);
}

Tensor with_constant(const Tensor& x, const std::vector<Sides>& sides, Scalar value, Loc loc) {
  Tensor inner = x;
  Shape shape = x.shape();
  Dims before = Dims::filled(x.rank(), 0);
  for (size_t i = 0; i < sides.size(); ++i) {
    const int axis = x.rank() - 1 - static_cast<int>(i);
    inner = cropped(inner, axis, sides[i], loc);
    before[axis] = std::max<int64_t>(0, sides[i].before);
    shape[axis] += sides[i].before + sides[i].after;
  }
  check_sizes("pad", shape, loc);
  if (shape == inner.shape()) return inner;
  return dispatch(make_ref<PadConstant>(shape, before, value), {inner}, loc);
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
    if (std::max(std::abs(s.before), std::abs(s.after)) > most ||
        std::min<int64_t>(s.before, 0) + std::min<int64_t>(s.after, 0) + x.shape()[axis] < 0 ||
        s.before + s.after + x.shape()[axis] < 0)
      fail<ShapeError>(loc, "pad: padding of {} and {} does not fit axis {} of size {}", s.before, s.after, axis,
                       x.shape()[axis]);
    if (o.mode != PadMode::constant) check_reach(x, o.mode, axis, s, loc);
    sides.push_back(s);
  }
  if (o.mode == PadMode::constant) return with_constant(x, sides, o.value, loc);
  Tensor out = x;
  for (size_t i = 0; i < sides.size(); ++i) {
    const int axis = x.rank() - 1 - static_cast<int>(i);
    // As in PyTorch: what is taken away still counts for reflections, but not for a circle.
    if (o.mode == PadMode::circular) out = surrounded(cropped(out, axis, sides[i], loc), o.mode, axis, sides[i], loc);
    else out = cropped(surrounded(out, o.mode, axis, sides[i], loc), axis, sides[i], loc);
  }
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
