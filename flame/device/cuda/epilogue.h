// Internal: sums of columns that kernels leave in parts.
#pragma once
#include "flame/device/device.h"
#include "flame/device/kernel.h"

namespace flame::cuda {

// Adds `count` parts of sums of columns, [count, columns] of float32 for 16-bit dtypes and of float64 for others, in a fixed
// order, and rounds.
class PartSums {
 public:
  PartSums() = default;
  PartSums(Device& d, DType t, int64_t count, int64_t columns);
  size_t workspace() const { return workspace_; }  // bytes of the parts
  void operator()(const void* parts, void* sums) const;

 private:
  Ref<Kernel> kernel_;
  int64_t count_ = 0, columns_ = 0;
  size_t workspace_ = 0;
};

}  // namespace flame::cuda
