// Internal: normalisation of dense rows in one launch each way: on the CPU of float32 and float64, on a GPU of every
// floating dtype, there also with rows in several pieces (batch norm) and without a mean (RMS norm).
#pragma once
#include <optional>

#include "flame/autograd/node.h"
#include "flame/tensor/op.h"

namespace flame {

// Which of the weights belongs to element j of row r: (r % period) * per_row + j / segment.
struct RowNorm {
  int64_t rows, length, period = 1, per_row = 0, segment = 1;
  // Element e of row r lies at r * row_stride + e / piece * piece_stride + e % piece; 0: rows follow each other.
  int64_t row_stride = 0, piece = 0, piece_stride = 0;
  bool rms = false;  // by the root of the mean square alone; `mean` is then without meaning
  int64_t weights() const { return period * per_row; }
};
// How x [..., axes] is normalised by rows, or nothing where it is not dense rows that the device has a kernel for, or
// weight and bias lie otherwise (they broadcast against x, or are undefined).
std::optional<RowNorm> row_norm_of(const Tensor& x, const Dims& axes, const Tensor& weight, const Tensor& bias);

// On a GPU, under autocast, short rows are an island's: the cast to 16 bits that follows is part of the launch, as is what x
// waits for.
bool joins_island(const RowNorm& n, const Tensor& x);
// Whether the backward of such rows is one too, with the weights' gradients as sums beside the rows, and with what else meets.
bool backward_joins_island(const RowNorm& n, const Tensor& x);

struct RowNormResult {
  Tensor y, mean, var;  // mean and var keep the axes with size 1
};
RowNormResult row_norm(const RowNorm& n, const Tensor& x, const Dims& axes, const Tensor& weight, const Tensor& bias,
                       double eps, Loc loc);
// dx, and the gradients of weight and bias, flat; undefined ones where there are no weights.
struct RowNormGradients {
  Tensor dx, dweight, dbias;
};
// In a rule whose input 0 and first saved tensor are x, of one output. What has arrived for x already is added in the launch.
RowNormGradients row_norm_backward(const RowNorm& n, const CustomContext& c, const Tensor& mean, const Tensor& var,
                                   const Tensor& weight, double eps, Loc loc);

// Kernels on one row. `weight` and `bias` are at the row's first ones, or null; dx is added to `arrived` if that is not
// null; dweight and dbias are added to.
struct RowNormKernel {
  void (*forward)(const RowNorm& n, const void* x, const void* weight, const void* bias, double eps, void* y,
                  void* mean, void* var);
  void (*backward)(const RowNorm& n, const void* x, const void* g, const void* weight, const void* mean,
                   const void* var, const void* arrived, double eps, void* dx, void* dweight, void* dbias);
};
RowNormKernel row_norm_kernel(DType t);

// The plans on a GPU, of x in dtype `t`, weights in `w`. Buffers as in RowNormOp and RowNormBackward.
bool on_device(const RowNorm& n, DType t);
Ref<Plan> device_row_norm(Device& d, const RowNorm& n, DType t, DType w, bool weight, bool bias, double eps);
Ref<Plan> device_row_norm_backward(Device& d, const RowNorm& n, DType t, DType w, DType g, bool weight, bool arrived,
                                   double eps);
bool takes_narrow_gradient(const RowNorm& n);  // the backward: of 16 bits, where x has more

}  // namespace flame
