// Internal: the loops of resampling along up to three axes by tables of weights, for the best instruction set of this CPU.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "flame/core/dtype.h"

namespace flame {

// Output o is the sum of weight[k] * input[index[k]] over k in [first[o], first[o + 1]).
struct ResampleAxis {
  int64_t in = 1, out = 1;
  std::vector<int64_t> first{0, 1}, index{0};
  std::vector<double> weight{1};
};

// x: [planes, in, in, in, inner] -> y: [planes, out, out, out, inner], both dense.
struct ResampleSizes {
  int64_t planes, inner;
  ResampleAxis axis[3];
  bool pick;  // every output is one input: elements are moved, whatever they are
};

// Sums in float32 or float64, in the order of the tables; threads inside.
class ResampleKernel {
 public:
  virtual ~ResampleKernel() = default;
  virtual size_t workspace() const = 0;  // bytes
  virtual void run(const void* x, void* y, void* workspace) const = 0;
};
// `pick` takes all dtypes, else floating ones.
std::unique_ptr<ResampleKernel> resample_kernel(ResampleSizes sizes, DType t);

}  // namespace flame
