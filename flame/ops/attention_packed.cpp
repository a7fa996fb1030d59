// Gradients of attention as parts of one tensor.
#include <algorithm>

#include "flame/ops/attention_packed_internal.h"
#include "flame/ops/view_internal.h"

namespace flame {

PackedGradients::PackedGradients(std::span<const Tensor> qkv) {
  for (size_t i = 0; i < 3; ++i) {
    const Tensor& x = qkv[i];
    parts_[i] = {x.dtype(), x.shape(), dense_strides_like(x.shape(), x.strides())};
  }
  for (size_t first = 0; first < 2; ++first)
    for (int axis = 0; axis < 4; ++axis) {
      const Ref<Value> v = adjoining(qkv.subspan(first), axis);
      if (!v || !is_dense(v->shape, v->strides)) continue;
      whole_ = v->meta();
      first_ = first;
      axis_ = axis;
      for (size_t i = first; i < 3; ++i) parts_[i].strides = whole_.strides;
      return;
    }
}

std::vector<Meta> PackedGradients::outputs() const {
  std::vector<Meta> out(parts_.begin(), parts_.begin() + static_cast<std::ptrdiff_t>(first_));
  if (axis_ >= 0) out.push_back(whole_);
  return out;
}

Ref<Plan> PackedGradients::plan(const Ref<Plan>& plan, size_t reads) const {
  if (axis_ < 0) return plan;
  std::vector<int64_t> offsets;  // in bytes
  int64_t at = 0;
  for (size_t i = first_; i < 3; ++i) {
    offsets.push_back(at * whole_.strides[axis_] * static_cast<int64_t>(size_of(whole_.dtype)));
    at += parts_[i].shape[axis_];
  }
  const auto run = [plan, offsets, before = reads + first_](const Run& r) {
    std::array<void*, 10> buffers;
    std::copy_n(r.buffers, before, buffers.begin());
    for (size_t i = 0; i < offsets.size(); ++i)
      buffers[before + i] = static_cast<char*>(r.buffers[before]) + offsets[i];
    plan->body({buffers.data(), r.scalars, r.workspace});
  };
  return make_ref<Plan>(plan->op, run, plan->workspace);
}

std::vector<Tensor> PackedGradients::parts(std::vector<Tensor> written) const {
  if (axis_ < 0) return written;
  const Tensor whole = std::move(written.back());
  written.pop_back();
  int64_t at = 0;
  for (size_t i = first_; i < 3; ++i) {
    const int64_t n = parts_[i].shape[axis_];
    written.push_back(whole.narrow(axis_, at, n));
    at += n;
  }
  return written;
}

}  // namespace flame
