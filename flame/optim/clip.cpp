// Clipping as two opaque ops over all gradients: one launch each, the norm stays on the device.
#include "flame/optim/clip.h"

#include <algorithm>
#include <cmath>

#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/cpu/parallel.h"
#include "flame/fuse/kernels.h"
#include "flame/ops/create.h"
#include "flame/optim/update_internal.h"

namespace flame::optim {
namespace {

constexpr int64_t chunk = 4096;   // elements summed or scaled at a time, never across tensors
constexpr int64_t grain = 32768;  // elements worth a thread

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
    for (int64_t i = 0; i < n; i += chunk)
      w.chunks.push_back({w.dtypes.size(), i, std::min(chunk, n - i), w.total + i});
    w.dtypes.push_back(m.dtype);
    w.total += n;
  }
  return w;
}
// fn(chunk, index) for all chunks, on as many threads as the elements are worth.
template <class F>
void each_chunk(const Work& w, const F& fn) {
  parallel_for(w.total, grain, [&](int64_t begin, int64_t end) {
    auto it = std::lower_bound(w.chunks.begin(), w.chunks.end(), begin,
                               [](const Chunk& c, int64_t at) { return c.place < at; });
    for (; it != w.chunks.end() && it->place < end; ++it) fn(*it, static_cast<size_t>(it - w.chunks.begin()));
  });
}
void* element(void* base, DType t, int64_t i) {
  return static_cast<char*>(base) + i * static_cast<int64_t>(size_of(t));
}

double squares(const Work& w, const Chunk& c, const Run& run) {
  const DType t = w.dtypes[c.tensor], compute = compute_dtype(t);
  void* x = element(run.buffers[c.tensor], t, c.begin);
  const SquaresFn kernel = Kernels::best().squares[kernel_index(t)];
  if (t == compute) return kernel(x, c.count);
  alignas(64) float staged[chunk];
  cast_kernel(t, compute)(x, nullptr, nullptr, staged, c.count);
  return kernel(staged, c.count);
}

// out[tensor] = fn(in[tensor], number), 16-bit dtypes by way of float32.
void apply(const ScaleFn (&kernels)[2], const Work& w, const Chunk& c, void* in, void* out, double number) {
  const DType t = w.dtypes[c.tensor], compute = compute_dtype(t);
  void* x = element(in, t, c.begin);
  void* y = element(out, t, c.begin);
  const ScaleFn kernel = kernels[kernel_index(t)];
  if (t == compute) return kernel(x, number, y, c.count);
  alignas(64) float staged[chunk];
  cast_kernel(t, compute)(x, nullptr, nullptr, staged, c.count);
  kernel(staged, number, staged, c.count);
  cast_kernel(compute, t)(staged, nullptr, nullptr, y, c.count);
}

Meta same_meta(const Tensor& t) {
  return {t.dtype(), t.shape(), is_dense(t.shape(), t.strides()) ? t.strides() : contiguous_strides(t.shape())};
}
Layout dense_layout(const Meta& m) { return is_dense(m.shape, m.strides) ? Layout::any : Layout::contiguous; }

// The gradients, then max_norm as a scalar, to the norm and the scaled gradients.
class ClipNorm : public Op {
 public:
  explicit ClipNorm(double limit) : limit_(limit) {}
  const char* name() const override { return "clip_grad_norm"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    std::vector<Meta> out(1, contiguous_meta(DType::f32, {}));
    for (const Tensor& t : in) {
      if (t.dtype() == DType::f64) out[0].dtype = DType::f64;
      out.push_back(same_meta(t));
    }
    return out;
  }
  Layout layout(int, const Meta& m) const override { return dense_layout(m); }
  std::vector<Word> scalars() const override { return {word(limit_)}; }
  bool differentiable() const override { return false; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    Work w = split(in);
    const size_t workspace = std::max<size_t>(w.chunks.size(), 1) * sizeof(double);
    return make_ref<Plan>(
        name(), [w = std::move(w), norm_dtype = out[0].dtype](const Run& run) { body(w, norm_dtype, run); }, workspace);
  }

 private:
  static void body(const Work& w, DType norm_dtype, const Run& run) {
    double* sums = static_cast<double*>(run.workspace);
    each_chunk(w, [&](const Chunk& c, size_t i) { sums[i] = squares(w, c, run); });
    double total = 0;
    for (size_t i = 0; i < w.chunks.size(); ++i) total += sums[i];
    const double norm = std::sqrt(total), wanted = run.scalars[0].f / (norm + 1e-6);
    const double factor = wanted > 1 ? 1 : wanted;  // NaN stays
    void* const* out = run.buffers + w.dtypes.size();
    if (norm_dtype == DType::f64) *static_cast<double*>(out[0]) = norm;
    else *static_cast<float*>(out[0]) = static_cast<float>(norm);
    each_chunk(w, [&](const Chunk& c, size_t) {
      apply(Kernels::best().scale, w, c, run.buffers[c.tensor], out[1 + c.tensor], factor);
    });
  }
  const double limit_;
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
      each_chunk(w, [&](const Chunk& c, size_t) {
        apply(Kernels::best().clamp, w, c, run.buffers[c.tensor], run.buffers[w.dtypes.size() + c.tensor],
              run.scalars[0].f);
      });
    });
  }

 private:
  const double limit_;
};

struct Gradients {
  std::vector<const Parameter*> owners;
  std::vector<Tensor> tensors;
};
Gradients gather(const char* who, const std::vector<Parameter>& parameters, double limit, Loc loc) {
  if (!(limit >= 0)) fail<ValueError>(loc, "{}: expected a limit of 0 or more, got {}", who, limit);
  Gradients out;
  for (const Parameter& p : parameters)
    if (const Tensor g = p.grad(); g.defined()) {
      if (!is_float(g.dtype())) fail<DTypeError>(loc, "{}: expected floating gradients, got {}", who, g.dtype());
      out.owners.push_back(&p);
      out.tensors.push_back(g.detach());
    }
  return out;
}

}  // namespace

Tensor clip_grad_norm(const std::vector<Parameter>& parameters, double max_norm, Loc loc) {
  NoGrad guard;
  const Gradients g = gather("clip_grad_norm", parameters, max_norm, loc);
  if (g.tensors.empty())
    return zeros({}, DType::f32, parameters.empty() ? default_device() : parameters[0].device(), loc);
  const std::vector<Tensor> out = dispatch_multi(make_ref<ClipNorm>(max_norm), g.tensors, loc);
  for (size_t i = 0; i < g.owners.size(); ++i) g.owners[i]->set_grad(out[i + 1], loc);
  return out[0];
}

void clip_grad_value(const std::vector<Parameter>& parameters, double max_value, Loc loc) {
  NoGrad guard;
  const Gradients g = gather("clip_grad_value", parameters, max_value, loc);
  if (g.tensors.empty()) return;
  const std::vector<Tensor> out = dispatch_multi(make_ref<ClipValue>(max_value), g.tensors, loc);
  for (size_t i = 0; i < g.owners.size(); ++i) g.owners[i]->set_grad(out[i], loc);
}

}  // namespace flame::optim
