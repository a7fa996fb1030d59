// Rotary embedding: angles by island ops, the rotation by one kernel whose gradient is itself with the other sign.
#include "flame/ops/rope.h"

#include <cmath>

#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/cpu/strided_copy.h"
#include "flame/ops/create.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

// Steps of one row: x and y of T along the features; cosines and sines dense.
struct RopeRow {
  int64_t features, pairs, first, second, x_step, y_step;  // pair i is at i * first and i * first + second
  bool inverse;
};

template <class T, class A>
void rotate(const RopeRow& r, const T* x, const A* cos, const A* sin, T* y) {
  for (int64_t i = 0; i < r.pairs; ++i) {
    const int64_t at = i * r.first, to = at + r.second;
    const A a = static_cast<A>(x[at * r.x_step]), b = static_cast<A>(x[to * r.x_step]);
    const A s = r.inverse ? -sin[i] : sin[i];
    y[at * r.y_step] = static_cast<T>(a * cos[i] - b * s);
    y[to * r.y_step] = static_cast<T>(b * cos[i] + a * s);
  }
  for (int64_t i = 2 * r.pairs; i < r.features; ++i) y[i * r.y_step] = x[i * r.x_step];
}

template <class T, class A>
Ref<Plan> plan_of(std::span<const Meta> in, const Meta& out, RopeRow row) {
  const int rank = out.shape.rank();
  row.x_step = in[0].strides[rank - 1];
  row.y_step = out.strides[rank - 1];
  std::array<Strides, 4> strides;
  Shape table = out.shape;
  table[rank - 1] = row.pairs;
  for (size_t i = 0; i < 3; ++i)
    strides[i] = i == 0 ? in[0].strides : broadcast_strides(in[i].shape, in[i].strides, table);
  strides[3] = out.strides;
  return make_ref<Plan>("rope", [shape = out.shape, strides, row](const Run& r) {
    const int64_t rows = numel(shape) / std::max<int64_t>(1, shape.back());
    parallel_for(rows, std::max<int64_t>(1, elements_per_piece / std::max<int64_t>(1, row.features)),
                 [&](int64_t begin, int64_t end) {
                   RowWalk<4> walk(shape, strides, begin);
                   for (int64_t i = begin; i < end; ++i, walk.next())
                     rotate(row, static_cast<const T*>(r.buffers[0]) + walk.at[0],
                            static_cast<const A*>(r.buffers[1]) + walk.at[1],
                            static_cast<const A*>(r.buffers[2]) + walk.at[2],
                            static_cast<T*>(r.buffers[3]) + walk.at[3]);
                 });
  });
}

// (x [..., T, D], cosines, sines [..., T, pairs]) -> x's shape.
class Rope final : public Op {
 public:
  Rope(bool interleaved, bool inverse) : interleaved_(interleaved), inverse_(inverse) {}
  const char* name() const override { return "rope"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {{in[0].dtype(), in[0].shape(), dense_strides_like(in[0].shape(), in[0].strides())}};
  }
  Layout layout(int input, const Meta&) const override { return input == 0 ? Layout::any : Layout::contiguous; }
  void key(Key& k) const override { k << interleaved_ << inverse_; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    const int64_t pairs = in[1].shape.back();
    const RopeRow row{out[0].shape.back(), pairs, interleaved_ ? 2 : 1, interleaved_ ? 1 : pairs, 0, 0, inverse_};
    switch (out[0].dtype) {
      case DType::f16: return plan_of<float16, float>(in, out[0], row);
      case DType::bf16: return plan_of<bfloat16, float>(in, out[0], row);
      case DType::f64: return plan_of<double, double>(in, out[0], row);
      default: return plan_of<float, float>(in, out[0], row);
    }
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const int64_t pairs = in[1].shape.back();
    const int last = out[0].shape.rank() - 1;
    struct Rows {  // as in rope.cu
      int64_t rank, count;
      int64_t shape[max_rank], x[max_rank], cos[max_rank], sin[max_rank], y[max_rank];
      int64_t features, pairs, first, second, x_step, y_step, inverse;
    } rows{last,
           1,
           {},
           {},
           {},
           {},
           {},
           out[0].shape.back(),
           pairs,
           interleaved_ ? 2 : 1,
           interleaved_ ? 1 : pairs,
           in[0].strides[last],
           out[0].strides[last],
           inverse_};
    Shape table = out[0].shape;
    table[last] = pairs;
    const Strides cos = broadcast_strides(in[1].shape, in[1].strides, table),
                  sin = broadcast_strides(in[2].shape, in[2].strides, table);
    for (int i = 0; i < last; ++i) {
      rows.count *= rows.shape[i] = out[0].shape[i];
      rows.x[i] = in[0].strides[i];
      rows.cos[i] = cos[i];
      rows.sin[i] = sin[i];
      rows.y[i] = out[0].strides[i];
    }
    const int64_t work = rows.count * (rows.features - pairs);
    if (work == 0) return make_ref<Plan>("rope", [](const Run&) {});
    return make_ref<Plan>(
        "rope", [k = device_kernel(d, "ops/rope.cu", "rope", out[0].dtype), rows, work](const Run& r) {
          (*k)({.blocks = blocks_for(work, 256)}, rows, r.buffers[0], r.buffers[1], r.buffers[2], r.buffers[3]);
        });
  }
  bool saves_input(int i) const override { return i > 0; }
  void vjp(Vjp& v) const override {
    v.give(0, dispatch(make_ref<Rope>(interleaved_, !inverse_), {v.grad(0), v.input(1), v.input(2)}, v.call_site()));
  }

 private:
  bool interleaved_, inverse_;
};

}  // namespace

Tensor rope(const Tensor& x, const RopeOptions& o, Loc loc) {
  if (!is_float(x.dtype())) fail<DTypeError>(loc, "rope: expected a floating dtype, got {}", x.dtype());
  if (x.rank() < 2) fail<ShapeError>(loc, "rope: expected x [..., T, D], got {}", x.shape());
  const int64_t features = x.shape().back(), dims = o.dims == 0 ? features : o.dims;
  if (dims < 0 || dims % 2 != 0 || dims > features)
    fail<ValueError>(loc, "rope: expected an even number of features to turn, at most {}, got {}", features, dims);
  if (!(o.base > 0)) fail<ValueError>(loc, "rope: expected a base above 0, got {}", o.base);
  Shape rows = x.shape(), fitted;
  rows.erase(x.rank() - 1);
  const int64_t pairs = dims / 2;
  Tensor p = o.positions;
  if (!p.defined()) p = arange(o.offset, o.offset + rows.back(), 1, DType::f64, x.device(), loc);
  if (p.dtype() == DType::boolean) fail<DTypeError>(loc, "rope: expected positions of numbers, got bool");
  if (p.rank() == 0 || p.shape().back() != rows.back() || !broadcast_shapes(p.shape(), rows, fitted) || fitted != rows)
    fail<ShapeError>(loc, "rope: expected positions that broadcast to {}, got {}", rows, p.shape());
  const DType wide = compute_dtype_of(x.dtype());
  const Tensor frequency = exp(arange(0, pairs, 1, DType::f64, x.device(), loc) *
                               (-std::log(o.base) / static_cast<double>(std::max<int64_t>(1, pairs))));
  const Tensor angle = mul(p.detach().to(DType::f64, loc).unsqueeze(-1, loc), frequency, loc);
  return dispatch(make_ref<Rope>(o.interleaved, false), {x, cos(angle).to(wide, loc), sin(angle).to(wide, loc)}, loc);
}

namespace {
const RegisterOp registered({
    .name = "rope",
    .signature = "rope(x, options)",
    .formula = "pairs of features turned by position base^(-i / n)",
    .samples =
        [](DType t) {
          const auto with = [](const RopeOptions& o) {
            return [o](const std::vector<Tensor>& in) { return std::vector<Tensor>{rope(in[0], o)}; };
          };
          using namespace samples;
          const Tensor places = classes({2, 1, 3}, 50);
          return std::vector<SampleCase>{
              {{uniform({2, 3, 4, 6}, t)}, with({}), "half split"},
              {{transposed({2, 3, 4}, t)}, with({.offset = 5, .interleaved = true}), "interleaved, transposed"},
              {{strided({3, 7}, t)}, with({.base = 100, .dims = 4}), "partial, strided"},
              {{uniform({2, 2, 3, 4}, t)}, with({.positions = places}), "positions a sample"},
              {{uniform({0, 4}, t)}, with({}), "no rows"},
          };
        },
});
}  // namespace

}  // namespace flame
