// Internal: where q, k and v, or k and v, are parts of one dense tensor, a launch writes their gradients as parts of one tensor
// of its layout: what they go back to needs no copy then.
#pragma once
#include <array>
#include <vector>

#include "flame/tensor/tensor.h"

namespace flame {

class PackedGradients {
 public:
  explicit PackedGradients(std::span<const Tensor> qkv);
  int axis() const { return axis_; }                      // along which they are parts; -1: each lies by itself
  std::vector<Meta> outputs() const;                      // of the launch: dq unless it is a part, then the whole
  std::span<const Meta> parts() const { return parts_; }  // dq, dk and dv as they lie
  // `plan` writes dq, dk and dv after `reads` inputs; what it becomes writes outputs().
  Ref<Plan> plan(const Ref<Plan>& plan, size_t reads) const;
  // dq, dk and dv of what was written.
  std::vector<Tensor> parts(std::vector<Tensor> written) const;

 private:
  std::array<Meta, 3> parts_;
  Meta whole_;
  size_t first_ = 3;  // part of the whole
  int axis_ = -1;
};

}  // namespace flame
