// One plan that updates many tensors: threads share the elements of all of them, whatever their sizes.
#include "flame/optim/update_internal.h"

#include <cmath>

#include "flame/fuse/kernels.h"
#include "flame/optim/clip_internal.h"

namespace flame::optim {
namespace {

constexpr int64_t stage = 1024;  // elements converted at a time, in L1

struct Placed : UpdateTensor {
  int64_t numel;
  size_t gradient_buffer, parameter_buffer;
  void* shadow_at(const Run& run, int64_t i) const {
    return element(run.buffers[parameter_buffer + buffers() - 1], *shadow, i);
  }
};

// Elements [begin, end) of one tensor, its gradient times *factor unless null; parameters and gradients of another dtype than
// the moments go through `stage`.
void update(const Placed& t, const UpdateArguments& a, const Run& run, int64_t begin, int64_t end,
            const double* factor) {
  const DType compute = compute_dtype(t.parameter);
  void* p = run.buffers[t.parameter_buffer];
  void* g = run.buffers[t.gradient_buffer];
  std::array<void*, max_moments> moments{};
  const auto moments_at = [&](int64_t i) {
    for (size_t k = 0; k < static_cast<size_t>(t.moments); ++k)
      moments[k] = element(run.buffers[t.parameter_buffer + 1 + k], compute, i);
    return moments.data();
  };
  const BlockFn store_shadow = t.shadow ? cast_kernel(t.parameter, *t.shadow) : nullptr;
  if (t.parameter == compute && t.gradient == compute && !factor) {
    const int64_t size = store_shadow ? stage : end - begin;  // what is cast lies in L1
    for (int64_t i = begin, n = 0; i < end; i += n) {
      n = std::min(size, end - i);
      t.kernel(a, element(p, compute, i), element(g, compute, i), moments_at(i), n);
      if (store_shadow) store_shadow(element(p, compute, i), nullptr, nullptr, t.shadow_at(run, i), n);
    }
    return;
  }

  const BlockFn load_p = cast_kernel(t.parameter, compute), load_g = cast_kernel(t.gradient, compute);
  const BlockFn store_p = cast_kernel(compute, t.parameter);
  alignas(64) double p_stage[stage], g_stage[stage], scaled[stage];
  for (int64_t i = begin; i < end; i += stage) {
    const int64_t n = std::min(stage, end - i);
    load_p(element(p, t.parameter, i), nullptr, nullptr, p_stage, n);
    void* from = element(g, t.gradient, i);
    if (factor && t.gradient == t.parameter) {
      scale_chunk(ClipKernels::best().scale, t.gradient, from, scaled, 0, n, *factor);
      from = scaled;
    }
    load_g(from, nullptr, nullptr, g_stage, n);
    if (factor && t.gradient != t.parameter)  // held in fewer bits than it counts for
      scale_chunk(ClipKernels::best().scale, compute, g_stage, g_stage, 0, n, *factor);
    t.kernel(a, p_stage, g_stage, moments_at(i), n);
    store_p(p_stage, nullptr, nullptr, element(p, t.parameter, i), n);
    if (store_shadow) store_shadow(element(p, t.parameter, i), nullptr, nullptr, t.shadow_at(run, i), n);
  }
}

}  // namespace

bool skipped_on_cpu(const Run& run, const std::vector<UpdateTensor>& tensors, const StepNumbers& numbers,
                    const double* skip, size_t counts, std::vector<UpdateArguments>& arguments) {
  const auto* steps = static_cast<const StepOf*>(run.scalars[1].p);
  auto* skipped = static_cast<int64_t*>(run.buffers[counts]);
  const bool skips = skip && std::isnan(*skip);
  arguments.resize(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const StepOf& s = steps[tensors[i].block];
    if (skips) ++skipped[tensors[i].block];
    else numbers.of(s.h, static_cast<double>(s.steps - skipped[tensors[i].block]), arguments[i].data());
  }
  return skips;
}

Work update_work(const std::vector<UpdateTensor>& tensors) {
  Work w{.bytes = 0};
  for (const UpdateTensor& t : tensors) {
    const size_t moments = static_cast<size_t>(t.moments) * size_of(compute_dtype(t.parameter));
    const size_t shadow = t.shadow ? size_of(*t.shadow) : 0;
    w.bytes +=
        numel(t.shape) * static_cast<int64_t>(size_of(t.gradient) + 2 * (size_of(t.parameter) + moments) + shadow);
  }
  return w;
}

Ref<Plan> update_plan(const char* name, const std::vector<UpdateTensor>& tensors, Device& d, const UpdateWays& ways) {
  if (d.kind() == Device::Kind::cuda) return device_update_plan(name, tensors, d, ways);
  std::vector<Placed> placed;
  std::vector<int64_t> starts;  // of each tensor among all elements
  int64_t total = 0;
  const size_t factor_at = tensors.size();
  size_t buffer = factor_at + (ways.has_factor() ? 1 : 0);
  for (const UpdateTensor& t : tensors) {
    const int64_t n = numel(t.shape);
    if (n > 0) {
      placed.push_back({t, n, static_cast<size_t>(&t - tensors.data()), buffer});
      starts.push_back(total);
    }
    total += n;
    buffer += t.buffers();
  }
  return make_ref<Plan>(name, [placed = std::move(placed), starts = std::move(starts), tensors, total, ways, factor_at,
                               counts_at = buffer](const Run& run) {
    const double* factor = ways.has_factor() ? static_cast<const double*>(run.buffers[factor_at]) : nullptr;
    std::vector<UpdateArguments> own;
    if (ways.counts && skipped_on_cpu(run, tensors, *ways.counts, ways.skips ? factor : nullptr, counts_at, own))
      return;
    const auto* blocks = static_cast<const UpdateArguments*>(run.scalars[0].p);
    parallel_for(total, grain, [&](int64_t begin, int64_t end) {
      size_t i = static_cast<size_t>(std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin()) - 1;
      for (; i < placed.size() && starts[i] < end; ++i) {
        const Placed& t = placed[i];
        update(t, own.empty() ? blocks[t.block] : own[t.gradient_buffer], run, std::max<int64_t>(begin - starts[i], 0),
               std::min(end - starts[i], t.numel), factor);
      }
    });
  });
}

}  // namespace flame::optim
