// interpolate: every mode is a matrix along each axis, made as a table when the plan is; the gradient is its transpose.
#include "flame/ops/interpolate.h"

#include <algorithm>
#include <cmath>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/device/cpu/resample_kernel.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/pool.h"

namespace flame {
namespace {

using Mode = InterpolateMode;
bool picks(Mode m) { return m == Mode::nearest || m == Mode::nearest_exact; }
bool is_cubic(Mode m) { return m == Mode::bicubic; }

// What the tables depend on. A scale of 0: that of the sizes.
struct Resampling {
  Mode mode;
  bool align_corners, antialias, channels_last;
  Dims in, out;  // spatial sizes
  double scale[3];
};

// Keys' cubic convolution kernel (1981) at distance x.
double cubic(double x, double a) {
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

class Table {
 public:
  Table(const Resampling& r, int axis) : r_(r), n_(r.in[axis]), scale_(r.scale[axis]) {
    t_.in = n_;
    t_.out = r.out[axis];
    t_.first = {0};
    t_.index.clear();
    t_.weight.clear();
    for (int64_t o = 0; o < t_.out; ++o) {
      if (picks(r.mode)) nearest(o);
      else if (r.antialias) filtered(o);
      else interpolated(o);
      t_.first.push_back(static_cast<int64_t>(t_.index.size()));
    }
  }
  ResampleAxis take() { return std::move(t_); }

 private:
  void put(int64_t at, double weight) {
    t_.index.push_back(std::clamp<int64_t>(at, 0, n_ - 1));
    t_.weight.push_back(weight);
  }
  // Input elements per output element.
  double step() const {
    if (r_.align_corners) return t_.out > 1 ? static_cast<double>(n_ - 1) / static_cast<double>(t_.out - 1) : 0;
    return scale_ > 0 ? 1 / scale_ : static_cast<double>(n_) / static_cast<double>(t_.out);
  }
  // In float32, as PyTorch does: where a place falls between two elements, rounding decides.
  void nearest(int64_t o) {
    const float by = scale_ > 0 ? static_cast<float>(1 / scale_) : static_cast<float>(n_) / static_cast<float>(t_.out);
    float at = static_cast<float>(o) * by;
    if (r_.mode == Mode::nearest_exact) at = std::max(0.0f, by * (static_cast<float>(o) + 0.5f) - 0.5f) + 0.5f;
    put(static_cast<int64_t>(std::floor(at)), 1);
  }
  void interpolated(int64_t o) {
    const double by = step();
    double at = r_.align_corners ? by * static_cast<double>(o) : by * (static_cast<double>(o) + 0.5) - 0.5;
    if (!is_cubic(r_.mode)) at = std::max(at, 0.0);
    const int64_t left = std::min(static_cast<int64_t>(std::floor(at)), n_ - 1);
    const double rest = std::clamp(at - static_cast<double>(left), 0.0, 1.0);
    if (!is_cubic(r_.mode)) {
      put(left, 1 - rest);
      put(left + 1, rest);
      return;
    }
    for (int64_t k = -1; k <= 2; ++k) put(left + k, cubic(rest - static_cast<double>(k), -0.75));
  }
  // A window as wide as the output's elements are, as in Pillow.
  void filtered(int64_t o) {
    const double by = step(), wide = std::max(by, 1.0), support = (is_cubic(r_.mode) ? 2 : 1) * wide;
    const double center = by * (static_cast<double>(o) + 0.5);
    const int64_t begin = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const int64_t end = std::min<int64_t>(static_cast<int64_t>(center + support + 0.5), n_);
    double total = 0;
    const size_t start = t_.weight.size();
    for (int64_t i = begin; i < end; ++i) {
      const double x = (static_cast<double>(i) - center + 0.5) / wide;
      put(i, is_cubic(r_.mode) ? cubic(x, -0.5) : std::max(0.0, 1 - std::abs(x)));
      total += t_.weight.back();
    }
    for (size_t k = start; k < t_.weight.size(); ++k) t_.weight[k] /= total;
  }

  const Resampling& r_;
  int64_t n_;
  double scale_;
  ResampleAxis t_;
};

// Column by column: which outputs an input goes to. In the order of the outputs.
ResampleAxis transposed(const ResampleAxis& t) {
  ResampleAxis b{t.out, t.in, std::vector<int64_t>(static_cast<size_t>(t.in) + 1, 0),
                 std::vector<int64_t>(t.index.size()), std::vector<double>(t.index.size())};
  for (int64_t i : t.index) ++b.first[static_cast<size_t>(i) + 1];
  for (size_t i = 1; i < b.first.size(); ++i) b.first[i] += b.first[i - 1];
  std::vector<int64_t> next(b.first.begin(), b.first.end() - 1);
  for (int64_t o = 0; o < t.out; ++o)
    for (int64_t k = t.first[static_cast<size_t>(o)]; k < t.first[static_cast<size_t>(o) + 1]; ++k) {
      const auto from = static_cast<size_t>(k);
      const auto to = static_cast<size_t>(next[static_cast<size_t>(t.index[from])]++);
      b.index[to] = o;
      b.weight[to] = t.weight[from];
    }
  return b;
}

// x -> y, or, transposed, dy -> dx.
class Resample final : public Op {
 public:
  Resample(const Resampling& r, bool transposed) : r_(r), transposed_(transposed) {}
  const char* name() const override { return "interpolate"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    Shape s{in[0].shape()[0], in[0].shape()[1]};
    for (int64_t n : transposed_ ? r_.in : r_.out) s.push_back(n);
    return {{in[0].dtype(), s, r_.channels_last ? channels_last_strides(s) : contiguous_strides(s)}};
  }
  Layout layout(int, const Meta&) const override {
    return r_.channels_last ? Layout::channels_last : Layout::contiguous;
  }
  void key(Key& k) const override {
    k << r_.mode << r_.align_corners << r_.antialias << r_.channels_last << transposed_;
    for (double s : r_.scale) k << s;
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    const Shape& s = in[0].shape;
    const int axes = r_.in.rank();
    ResampleSizes sizes{
        r_.channels_last ? s[0] : s[0] * s[1], r_.channels_last ? s[1] : 1, {}, picks(r_.mode) && !transposed_};
    for (int i = 0; i < axes; ++i) {
      ResampleAxis t = Table(r_, i).take();
      sizes.axis[3 - axes + i] = transposed_ ? transposed(t) : std::move(t);
    }
    const std::shared_ptr<ResampleKernel> kernel = resample_kernel(std::move(sizes), in[0].dtype);
    return make_ref<Plan>(
        name(), [kernel](const Run& r) { kernel->run(r.buffers[0], r.buffers[1], r.workspace); }, kernel->workspace());
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const Shape& s = in[0].shape;
    const int64_t n = numel(out[0].shape);
    if (n == 0) return make_ref<Plan>(name(), [](const Run&) {});
    struct Axis {  // as in interpolate.cu
      int64_t in = 1, out = 1;
      const void *first = nullptr, *index = nullptr, *weight = nullptr;
    };
    struct Sizes {
      int64_t planes, inner, pick;
      Axis axis[3];
    } sizes{r_.channels_last ? s[0] : s[0] * s[1], r_.channels_last ? s[1] : 1, picks(r_.mode) && !transposed_, {}};
    std::vector<Ref<Storage>> tables;  // the plan's own
    const auto upload = [&](const auto& v) -> const void* {
      const size_t bytes = std::max<size_t>(v.size(), 1) * 8;
      void* at = d.allocate(bytes, Loc::current());
      tables.push_back(make_ref<Storage>(d, at, bytes, [&d, at, bytes] { d.deallocate(at, bytes); }));
      d.copy_from_host(at, v.data(), v.size() * 8);
      return at;
    };
    for (int i = 0; i < 3; ++i) {
      const int own = i - (3 - r_.in.rank());
      ResampleAxis t;
      if (own >= 0) t = transposed_ ? transposed(Table(r_, own).take()) : Table(r_, own).take();
      sizes.axis[i] = {t.in, t.out, upload(t.first), upload(t.index), upload(t.weight)};
    }
    const Ref<Kernel> k = sizes.pick ? moving_kernel(d, "ops/interpolate.cu", "resample", size_of(in[0].dtype))
                                     : device_kernel(d, "ops/interpolate.cu", "resample", in[0].dtype);
    return make_ref<Plan>(name(), [k, sizes, n, tables](const Run& r) {
      (*k)({.blocks = blocks_for(n, 256)}, sizes, r.buffers[0], r.buffers[1]);
    });
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override {
    v.give(0, dispatch(make_ref<Resample>(r_, !transposed_), {v.grad(0)}, v.call_site()));
  }

 private:
  Resampling r_;
  bool transposed_;
};

void check(const Tensor& x, const InterpolateOptions& o, Loc loc) {
  const Mode m = o.mode;
  const int rank = m == Mode::linear ? 3 : m == Mode::trilinear ? 5 : m == Mode::bilinear || is_cubic(m) ? 4 : 0;
  if (rank ? x.rank() != rank : x.rank() < 3 || x.rank() > 5)
    fail<ShapeError>(loc, "interpolate: expected x of rank {} for {}, got {}", rank ? std::to_string(rank) : "3 to 5",
                     name_of(m), x.shape());
  if (!picks(m) && !is_float(x.dtype()))
    fail<DTypeError>(loc, "interpolate: expected a floating dtype for {}, got {}", name_of(m), x.dtype());
  if (o.align_corners && (picks(m) || m == Mode::area))
    fail<ValueError>(loc, "interpolate: align_corners means nothing for {}", name_of(m));
  if (o.antialias && m != Mode::bilinear && !is_cubic(m))
    fail<ValueError>(loc, "interpolate: expected bilinear or bicubic for antialias, got {}", name_of(m));
  const bool sized = !o.size.each().empty(), scaled = !o.scale_factor.each().empty();
  if (sized == scaled)
    fail<ValueError>(loc, "interpolate: expected one of size and scale_factor, got {}", sized ? "both" : "none");
  if (sized && o.recompute_scale_factor)
    fail<ValueError>(loc, "interpolate: recompute_scale_factor needs a scale_factor, got a size");
  const size_t axes = static_cast<size_t>(x.rank() - 2),
               given = sized ? o.size.each().size() : o.scale_factor.each().size();
  if (given != 1 && given != axes)
    fail<ValueError>(loc, "interpolate: expected one number or {} for x {}, got {}", axes, x.shape(), given);
}

}  // namespace

const char* name_of(InterpolateMode m) {
  constexpr const char* names[] = {"nearest", "nearest_exact", "linear", "bilinear", "bicubic", "trilinear", "area"};
  return names[static_cast<int>(m)];
}

Tensor interpolate(const Tensor& x, const InterpolateOptions& o, Loc loc) {
  if (const AutocastCall cast{"interpolate", {&x}}) return interpolate(cast(x, loc), o, loc);
  const OpScope scope("interpolate");
  check(x, o, loc);
  Resampling r{o.mode, o.align_corners, o.antialias, false, {}, {}, {0, 0, 0}};
  const auto given = [](const auto& list, int i) { return list[list.size() == 1 ? 0 : static_cast<size_t>(i)]; };
  for (int i = 0; i < x.rank() - 2; ++i) {
    const int64_t n = x.shape()[i + 2];
    r.in.push_back(n);
    if (o.scale_factor.each().empty()) {
      r.out.push_back(given(o.size.each(), i));
    } else {
      const double scale = given(o.scale_factor.each(), i), out = std::floor(static_cast<double>(n) * scale);
      if (!(out < 0x1p62)) fail<ValueError>(loc, "interpolate: expected finite scale factors, got {}", scale);
      r.out.push_back(static_cast<int64_t>(out));
      if (!o.recompute_scale_factor) r.scale[i] = scale;
    }
    if (n < 1 || r.out[i] < 1)
      fail<ShapeError>(loc, "interpolate: expected sizes of 1 or more, got {} to {} along axis {} of x {}", n, r.out[i],
                       i + 2, x.shape());
  }
  if (o.mode == Mode::area) {
    if (x.rank() == 3) return adaptive_avg_pool1d(x, r.out[0], loc);
    if (x.rank() == 4) return adaptive_avg_pool2d(x, {r.out[0], r.out[1]}, loc);
    return adaptive_avg_pool3d(x, {r.out[0], r.out[1], r.out[2]}, loc);
  }
  r.channels_last = is_channels_last(x.shape(), x.strides()) && !is_contiguous(x.shape(), x.strides());
  return dispatch(make_ref<Resample>(r, false), {x}, loc);
}

}  // namespace flame
