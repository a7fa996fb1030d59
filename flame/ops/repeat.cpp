// repeat and tile are expanded views and one copy; roll is one launch that copies the pieces to their places.
#include "flame/ops/repeat.h"

#include <algorithm>

#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/device/cpu/strided_copy.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

Tensor repeated(const char* op, const Tensor& x, const Dims& counts, Loc loc) {
  for (int64_t n : counts)
    if (n < 0) fail<ShapeError>(loc, "{}: expected counts of 0 or more, got {}", op, counts);
  Shape ones = x.shape();
  while (ones.rank() < counts.rank()) ones.insert(0, 1);
  Shape sizes = ones;
  for (int i = 0; i < counts.rank(); ++i)
    if (__builtin_mul_overflow(sizes[i], counts[i], &sizes[i]))
      fail<ShapeError>(loc, "{}: {} times {} is too large", op, x.shape(), counts);
  check_sizes(op, sizes, loc);
  Tensor out = x.reshape(ones, loc);
  // Each round puts an axis of size 1 before the axes that are repeated, as many as the rank allows, and copies once.
  for (int axis = 0; axis < counts.rank();) {
    Shape with_ones, expanded, merged;
    int room = max_rank - counts.rank(), i = 0;
    for (; i < counts.rank(); ++i) {
      const int64_t n = out.shape()[i], count = i < axis ? 1 : counts[i];
      if (count != 1 && n != 1) {
        if (room == 0) break;
        --room;
        with_ones.push_back(1);
        expanded.push_back(count);
      }
      with_ones.push_back(n);
      expanded.push_back(n == 1 ? count : n);
      merged.push_back(n * count);
    }
    axis = i;
    for (; i < counts.rank(); ++i) {
      with_ones.push_back(out.shape()[i]);
      expanded.push_back(out.shape()[i]);
      merged.push_back(out.shape()[i]);
    }
    out = out.reshape(with_ones, loc).expand(expanded, loc).reshape(merged, loc);
  }
  return out;
}

class Roll final : public Op {
 public:
  explicit Roll(const Dims& shifts) : shifts_(shifts) {}  // one an axis, in [0, size)
  const char* name() const override { return "roll"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {{in[0].dtype(), in[0].shape(), dense_strides_like(in[0].shape(), in[0].strides())}};
  }
  void key(Key& k) const override { k << shifts_; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    return plan(in, out, [](auto&&... a) { return StridedCopy(a...); });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return plan(in, out, [&](auto&&... a) { return DeviceCopy(d, a...); });
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override {
    const Tensor g = v.grad(0);
    Dims back = shifts_;
    for (int i = 0; i < back.rank(); ++i) back[i] = shifts_[i] ? g.shape()[i] - shifts_[i] : 0;
    v.give(0, dispatch(make_ref<Roll>(back), {g}, v.call_site()));
  }

 private:
  template <class MakeCopy>
  Ref<Plan> plan(std::span<const Meta> in, std::span<const Meta> out, MakeCopy make) const {
    struct Piece {
      std::invoke_result_t<MakeCopy, Shape, Strides, Strides, size_t> copy;
      int64_t to, from;
    };
    const auto element = static_cast<int64_t>(size_of(in[0].dtype));
    std::vector<Piece> pieces;
    const int rank = shifts_.rank();
    for (unsigned wrapped = 0; wrapped < 1u << rank;
         ++wrapped) {  // bit i: the part of axis i that comes in at the start
      Shape shape = in[0].shape;
      int64_t to = 0, from = 0;
      for (int i = 0; i < rank; ++i) {
        const int64_t n = shape[i], s = shifts_[i];
        const bool start = wrapped >> i & 1;
        shape[i] = start ? s : n - s;
        (start ? from : to) += start ? (n - s) * in[0].strides[i] : s * out[0].strides[i];
      }
      if (numel(shape) == 0) continue;
      pieces.push_back(
          {make(shape, out[0].strides, in[0].strides, static_cast<size_t>(element)), to * element, from * element});
    }
    return make_ref<Plan>(name(), [pieces](const Run& r) {
      for (const Piece& p : pieces)
        p.copy(static_cast<char*>(r.buffers[1]) + p.to, static_cast<const char*>(r.buffers[0]) + p.from);
    });
  }
  Dims shifts_;
};

}  // namespace

Tensor repeat(const Tensor& x, const Dims& counts, Loc loc) {
  const OpScope scope("repeat");
  check_defined("repeat", x, loc);
  if (counts.rank() < x.rank())
    fail<ShapeError>(loc, "repeat: expected a count for each axis of {}, got {}", x.shape(), counts);
  return repeated("repeat", x, counts, loc);
}

Tensor tile(const Tensor& x, const Dims& counts, Loc loc) {
  const OpScope scope("tile");
  check_defined("tile", x, loc);
  Dims all = counts;
  while (all.rank() < x.rank()) all.insert(0, 1);
  return repeated("tile", x, all, loc);
}

Tensor roll(const Tensor& x, const Dims& shifts, const Dims& axes, Loc loc) {
  const OpScope scope("roll");
  check_defined("roll", x, loc);
  if (axes.empty()) {
    if (shifts.rank() != 1)
      fail<ValueError>(loc, "roll: expected one shift for the flattened tensor, got {}; or name the axes", shifts);
    return roll(x.flatten(0, -1, loc), shifts, {0}, loc).reshape(x.shape(), loc);
  }
  if (shifts.rank() != axes.rank())
    fail<ValueError>(loc, "roll: expected a shift for each axis, got shifts {} and axes {}", shifts, axes);
  Dims all = Dims::filled(x.rank(), 0);
  for (int i = 0; i < axes.rank(); ++i) {
    const int a = normalize_axis("roll", axes[i], x.rank(), loc);
    if (const int64_t n = x.shape()[a]) all[a] = ((all[a] + shifts[i] % n) % n + n) % n;
  }
  return dispatch(make_ref<Roll>(all), {x}, loc);
}

namespace {
using Inputs = std::vector<Tensor>;
using samples::strided, samples::transposed, samples::uniform;

RegisterOp repeating(const char* name, Tensor (*fn)(const Tensor&, const Dims&, Loc)) {
  return RegisterOp({.name = name,
                     .signature = std::string(name) + "(x, counts)",
                     .formula = "counts[i] copies of x one after another along axis i",
                     .samples = [fn](DType t) {
                       const auto with = [fn](const Dims& counts) {
                         return [fn, counts](const Inputs& in) { return Inputs{fn(in[0], counts, Loc::current())}; };
                       };
                       return std::vector<SampleCase>{
                           {{uniform({2, 3}, t)}, with({2, 3}), "matrix"},
                           {{transposed({3, 1, 2}, t)}, with({2, 1, 4, 2}), "new axis"},
                           {{strided({2, 1, 2, 1, 2}, t)}, with({2, 1, 2, 3, 2}), "five axes"},
                           {{uniform({2, 3}, t)}, with({1, 0}), "no copies"},
                           {{uniform({}, t)}, with({3}), "0-d"},
                           {{uniform({0, 2}, t)}, with({2, 2}), "empty"},
                       };
                     }});
}
const RegisterOp registered[] = {
    repeating("repeat", repeat),
    repeating("tile", tile),
    RegisterOp({.name = "roll",
                .signature = "roll(x, shifts, axes)",
                .formula = "out[(i + shift) mod n] = x[i]",
                .samples =
                    [](DType t) {
                      const auto with = [](const Dims& shifts, const Dims& axes) {
                        return [=](const Inputs& in) { return Inputs{roll(in[0], shifts, axes)}; };
                      };
                      return std::vector<SampleCase>{
                          {{uniform({5}, t)}, with({2}, {0}), "vector"},
                          {{transposed({3, 4}, t)}, with({-1, 7}, {0, 1}), "two axes of a transpose"},
                          {{strided({2, 3, 4}, t)}, with({1, 2, 1}, {0, -1, 0}), "an axis twice"},
                          {{uniform({2, 3}, t)}, with({4}, {}), "flattened"},
                          {{uniform({}, t)}, with({4}, {}), "0-d"},
                          {{uniform({2, 0}, t)}, with({1, 1}, {0, 1}), "empty"},
                      };
                    }}),
};
}  // namespace

}  // namespace flame
