// Internal: a product as the kernels of gemm.cu are told it.
#pragma once
#include "flame/device/cpu/gemm.h"

namespace flame::cuda {

struct DeviceGemm {
  explicit DeviceGemm(const GemmProblem& p);  // NotImplemented beyond most_axes axes of batches
  static constexpr int most_axes = 6;
  int64_t m, n, k;
  int64_t a_rs, a_cs, b_rs, b_cs, c_rs, c_cs;
  int64_t axes;
  int64_t batch[most_axes]{}, a[most_axes]{}, b[most_axes]{}, c[most_axes]{};
};

}  // namespace flame::cuda
