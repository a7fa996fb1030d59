// Adaptive gradient clipping as one op over all gradients and their parameters: one launch.
#include <cmath>

#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/optim/clip.h"
#include "flame/optim/clip_internal.h"

namespace flame::optim {
namespace {

struct Unit {
  size_t tensor;
  int64_t begin, count;
  int64_t place;  // of its first element among those of all tensors
};

double norm_of(void* buffer, DType t, const Unit& u) {
  alignas(64) float stage[clip_chunk];
  double sum = 0;
  for (int64_t i = 0; i < u.count; i += clip_chunk) {
    const int64_t n = std::min(clip_chunk, u.count - i);
    sum += ClipKernels::best().squares[kernel_index(t)](staged(buffer, t, u.begin + i, n, stage), n);
  }
  return std::sqrt(sum);
}

// The gradients, then their parameters, to the clipped gradients.
class ClipAdaptive : public Op {
 public:
  explicit ClipAdaptive(const ClipAdaptiveOptions& o) : o_(o) {}
  const char* name() const override { return "clip_grad_adaptive"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc loc) const override {
    std::vector<Meta> out;
    for (size_t i = 0; i < in.size() / 2; ++i) {
      const Tensor &g = in[i], &p = in[in.size() / 2 + i];
      if (g.shape() != p.shape())
        fail<ShapeError>(loc, "clip_grad_adaptive: expected a gradient of shape {}, got {}", p.shape(), g.shape());
      out.push_back(contiguous_meta(g.dtype(), g.shape()));
    }
    return out;
  }
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  std::vector<Word> scalars() const override { return {word(o_.clip_factor), word(o_.eps)}; }
  bool differentiable() const override { return false; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    const size_t count = out.size();
    std::vector<Unit> units;
    std::vector<DType> dtypes;
    int64_t total = 0;
    for (const Meta& m : in) dtypes.push_back(m.dtype);
    for (size_t i = 0; i < count; ++i) {
      const Shape& s = out[i].shape;
      const int64_t n = numel(s), size = s.rank() < 2 || n == 0 ? n : n / s[0];
      for (int64_t at = 0; at < n; at += size) units.push_back({i, at, size, total + at});
      total += n;
    }
    return make_ref<Plan>(name(), [=, units = std::move(units), dtypes = std::move(dtypes)](const Run& run) {
      each_item(units, total, [&](const Unit& u) {
        void *g = run.buffers[u.tensor], *clipped = run.buffers[2 * count + u.tensor];
        const DType t = dtypes[u.tensor];
        const double weight = norm_of(run.buffers[count + u.tensor], dtypes[count + u.tensor], u);
        const double most = run.scalars[0].f * std::max(weight, run.scalars[1].f), norm = norm_of(g, t, u);
        const double factor = norm > most ? most / std::max(norm, 1e-6) : 1;
        for (int64_t i = 0; i < u.count; i += clip_chunk)
          scale_chunk(ClipKernels::best().scale, t, g, clipped, u.begin + i, std::min(clip_chunk, u.count - i), factor);
      });
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    return device_clip_adaptive_plan(name(), in, d);
  }

 private:
  const ClipAdaptiveOptions o_;
};

}  // namespace

void clip_grad_adaptive(const std::vector<Parameter>& parameters, const ClipAdaptiveOptions& o, Loc loc) {
  NoGrad guard;
  if (!(o.clip_factor > 0))
    fail<ValueError>(loc, "clip_grad_adaptive: expected clip_factor above 0, got {}", o.clip_factor);
  if (!(o.eps >= 0)) fail<ValueError>(loc, "clip_grad_adaptive: expected eps of 0 or more, got {}", o.eps);
  GradientsOf g = gradients_of("clip_grad_adaptive", parameters, loc);
  if (g.tensors.empty()) return;
  for (const Parameter* p : g.owners) g.tensors.push_back(p->tensor().detach());
  const std::vector<Tensor> out = dispatch_multi(make_ref<ClipAdaptive>(o), g.tensors, loc);
  for (size_t i = 0; i < g.owners.size(); ++i) g.owners[i]->set_grad(out[i], loc);
}

}  // namespace flame::optim
