// Clipping as opaque ops over all gradients: one launch each, the norm stays on the device.
#include "flame/optim/clip.h"

#include <cmath>

#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/fuse/kernels.h"
#include "flame/ops/create.h"
#include "flame/optim/clip_internal.h"

namespace flame::optim {

const void* staged(void* buffer, DType t, int64_t begin, int64_t n, float* stage) {
  void* x = element(buffer, t, begin);
  if (t == compute_dtype(t)) return x;
  cast_kernel(t, DType::f32)(x, nullptr, nullptr, stage, n);
  return stage;
}

void scale_chunk(const ScaleFn (&kernels)[2], DType t, void* in, void* out, int64_t begin, int64_t n, double number) {
  alignas(64) float stage[clip_chunk];
  const void* x = staged(in, t, begin, n, stage);
  void* y = element(out, t, begin);
  const ScaleFn kernel = kernels[kernel_index(t)];
  if (t == compute_dtype(t)) return kernel(x, number, y, n);
  kernel(x, number, stage, n);
  cast_kernel(DType::f32, t)(stage, nullptr, nullptr, y, n);
}

GradientsOf gradients_of(const char* who, const std::vector<Parameter>& parameters, Loc loc) {
  GradientsOf out;
  for (const Parameter& p : parameters)
    if (const Tensor g = p.grad(); g.defined()) {
      if (!is_float(g.dtype())) fail<DTypeError>(loc, "{}: expected floating gradients, got {}", who, g.dtype());
      out.owners.push_back(&p);
      out.tensors.push_back(g.detach());
    }
  return out;
}

namespace {

struct Chunk {
  size_t tensor;
  int64_t begin, count;
  int64_t place;  // of its first element among those of all tensors
};
struct Work {
  std::vector<DType> dtypes;
  std::vector<Chunk> chunks;
  int64_t total = 0;
};
Work split(std::span<const Meta> gradients) {
  Work w;
  for (const Meta& m : gradients) {
    const int64_t n = numel(m.shape);
    for (int64_t i = 0; i < n; i += clip_chunk)
      w.chunks.push_back({w.dtypes.size(), i, std::min(clip_chunk, n - i), w.total + i});
    w.dtypes.push_back(m.dtype);
    w.total += n;
  }
  return w;
}

// A p-norm as a sum over elements (or their maximum) and what is done to it.
double part_of_norm(const Work& w, const Chunk& c, const Run& run, double p) {
  const DType t = w.dtypes[c.tensor];
  const int k = kernel_index(t);
  alignas(64) float stage[clip_chunk];
  const void* x = staged(run.buffers[c.tensor], t, c.begin, c.count, stage);
  const ClipKernels& kernels = ClipKernels::best();
  if (p == 1) return kernels.absolutes[k](x, c.count);
  if (p == 2) return kernels.squares[k](x, c.count);
  if (std::isinf(p)) return kernels.largest[k](x, c.count);
  double sum = 0;
  for (int64_t i = 0; i < c.count; ++i)
    sum += std::pow(std::abs(k == 1 ? static_cast<const double*>(x)[i] : static_cast<const float*>(x)[i]), p);
  return sum;
}
double norm_of(const double* parts, size_t n, double p) {
  double total = 0;
  for (size_t i = 0; i < n; ++i)
    if (!std::isinf(p)) total += parts[i];
    else if (!(parts[i] <= total) && !std::isnan(total)) total = parts[i];
  return p == 2 ? std::sqrt(total) : p == 1 || std::isinf(p) ? total : std::pow(total, 1 / p);
}

Meta same_meta(const Tensor& t) {
  return {t.dtype(), t.shape(), is_dense(t.shape(), t.strides()) ? t.strides() : contiguous_strides(t.shape())};
}
Layout dense_layout(const Meta& m) { return is_dense(m.shape, m.strides) ? Layout::any : Layout::contiguous; }

// The gradients and, if scaled, their scale, with max_norm as a scalar, to their norm and the factor that clips them (float64).
class GradNorm : public Op {
 public:
  GradNorm(double limit, double p, bool scaled) : limit_(limit), p_(p), scaled_(scaled) {}
  const char* name() const override { return "clip_grad_norm"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    const bool wide = std::ranges::any_of(gradients(in), [](const Tensor& t) { return t.dtype() == DType::f64; });
    return {contiguous_meta(wide ? DType::f64 : DType::f32, {}), contiguous_meta(DType::f64, {})};
  }
  Layout layout(int, const Meta& m) const override { return dense_layout(m); }
  std::vector<Word> scalars() const override { return {word(limit_), word(p_)}; }
  void key(Key& k) const override { k << scaled_; }
  bool differentiable() const override { return false; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    Work w = split(gradients(in));
    const size_t workspace = std::max<size_t>(w.chunks.size(), 1) * sizeof(double);
    return make_ref<Plan>(
        name(),
        [w = std::move(w), norm_dtype = out[0].dtype, scaled = scaled_](const Run& run) {
          body(w, norm_dtype, scaled, run);
        },
        workspace);
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return device_norm_plan(name(), gradients(in), out[0].dtype, scaled_, d);
  }

 private:
  template <class T>
  std::span<const T> gradients(std::span<const T> in) const {
    return scaled_ ? in.first(in.size() - 1) : in;
  }
  static void body(const Work& w, DType norm_dtype, bool scaled, const Run& run) {
    const double p = run.scalars[1].f;
    double* sums = static_cast<double*>(run.workspace);
    each_item(w.chunks, w.total, [&](const Chunk& c) { sums[&c - w.chunks.data()] = part_of_norm(w, c, run, p); });
    const double by = scaled ? static_cast<double>(*static_cast<const float*>(run.buffers[w.dtypes.size()])) : 1;
    const double norm = norm_of(sums, w.chunks.size(), p) / by, wanted = run.scalars[0].f / (norm + 1e-6);
    const double clipped = wanted > 1 ? 1 : wanted;  // NaN stays
    void* const* out = run.buffers + w.dtypes.size() + (scaled ? 1 : 0);
    if (norm_dtype == DType::f64) *static_cast<double*>(out[0]) = norm;
    else *static_cast<float*>(out[0]) = static_cast<float>(norm);
    *static_cast<double*>(out[1]) = !scaled ? clipped : std::isfinite(norm) ? clipped / by : NAN;
  }
  const double limit_, p_;
  const bool scaled_;
};

// The gradients and the factor to the scaled gradients.
class ClipScale : public Op {
 public:
  const char* name() const override { return "clip_grad_norm"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    std::vector<Meta> out;
    for (const Tensor& t : in.first(in.size() - 1)) out.push_back(same_meta(t));
    return out;
  }
  Layout layout(int, const Meta& m) const override { return dense_layout(m); }
  bool differentiable() const override { return false; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return make_ref<Plan>(name(), [w = split(in.first(in.size() - 1))](const Run& run) {
      const size_t n = w.dtypes.size();
      const double factor = *static_cast<const double*>(run.buffers[n]);
      each_item(w.chunks, w.total, [&](const Chunk& c) {
        scale_chunk(ClipKernels::best().scale, w.dtypes[c.tensor], run.buffers[c.tensor], run.buffers[n + 1 + c.tensor],
                    c.begin, c.count, factor);
      });
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    return device_scale_plan(name(), in.first(in.size() - 1), true, d);
  }
};

class ClipValue : public Op {
 public:
  explicit ClipValue(double limit) : limit_(limit) {}
  const char* name() const override { return "clip_grad_value"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    std::vector<Meta> out;
    for (const Tensor& t : in) out.push_back(same_meta(t));
    return out;
  }
  Layout layout(int, const Meta& m) const override { return dense_layout(m); }
  std::vector<Word> scalars() const override { return {word(limit_)}; }
  bool differentiable() const override { return false; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return make_ref<Plan>(name(), [w = split(in)](const Run& run) {
      each_item(w.chunks, w.total, [&](const Chunk& c) {
        scale_chunk(ClipKernels::best().clamp, w.dtypes[c.tensor], run.buffers[c.tensor],
                    run.buffers[w.dtypes.size() + c.tensor], c.begin, c.count, run.scalars[0].f);
      });
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    return device_scale_plan(name(), in, false, d);
  }

 private:
  const double limit_;
};

void check_limit(const char* who, double limit, Loc loc) {
  if (!(limit >= 0)) fail<ValueError>(loc, "{}: expected a limit of 0 or more, got {}", who, limit);
}

}  // namespace

NormAndFactor grad_norm(const std::vector<Tensor>& gradients, double max_norm, double norm_type, Loc loc,
                        const Tensor& scale) {
  check_limit("clip_grad_norm", max_norm, loc);
  std::vector<Tensor> in = gradients;
  if (scale.defined()) in.push_back(scale);
  const std::vector<Tensor> out = dispatch_multi(make_ref<GradNorm>(max_norm, norm_type, scale.defined()), in, loc);
  return {out[0], out[1]};
}
std::vector<Tensor> scaled(std::vector<Tensor> gradients, const Tensor& factor, Loc loc) {
  gradients.push_back(factor);
  return dispatch_multi(make_ref<ClipScale>(), gradients, loc);
}

Tensor clip_grad_norm(const std::vector<Parameter>& parameters, double max_norm, const ClipNormOptions& o, Loc loc) {
  NoGrad guard;
  check_limit("clip_grad_norm", max_norm, loc);
  if (!(o.norm_type > 0)) fail<ValueError>(loc, "clip_grad_norm: expected norm_type above 0, got {}", o.norm_type);
  const GradientsOf g = gradients_of("clip_grad_norm", parameters, loc);
  if (g.tensors.empty())
    return zeros({}, DType::f32, parameters.empty() ? default_device() : parameters[0].device(), loc);
  const NormAndFactor found = grad_norm(g.tensors, max_norm, o.norm_type, loc);
  if (o.error_if_nonfinite)
    if (const double norm = found.norm.item(loc); !std::isfinite(norm))
      fail<ValueError>(loc, "clip_grad_norm: expected a finite norm of the gradients, got {}", norm);
  const std::vector<Tensor> out = scaled(g.tensors, found.factor, loc);
  for (size_t i = 0; i < g.owners.size(); ++i) g.owners[i]->set_grad(out[i], loc);
  return found.norm;
}

void clip_grad_value(const std::vector<Parameter>& parameters, double max_value, Loc loc) {
  NoGrad guard;
  check_limit("clip_grad_value", max_value, loc);
  const GradientsOf g = gradients_of("clip_grad_value", parameters, loc);
  if (g.tensors.empty()) return;
  const std::vector<Tensor> out = dispatch_multi(make_ref<ClipValue>(max_value), g.tensors, loc);
  for (size_t i = 0; i < g.owners.size(); ++i) g.owners[i]->set_grad(out[i], loc);
}

}  // namespace flame::optim
