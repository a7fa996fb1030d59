// Internal: cuBLASLt and cuDNN for one device, opened when a plan first wants them, and the plans made with them.
#pragma once
#include <memory>
#include <mutex>
#include <string_view>

#include "flame/device/device.h"

namespace flame::cuda {

class CudaDevice;

class Libraries {
 public:
  explicit Libraries(CudaDevice& d);
  ~Libraries();
  struct Blas;
  struct Dnn;
  Blas& blas();
  Dnn& dnn();

 private:
  CudaDevice& device_;
  std::mutex mutex_;
  std::unique_ptr<Blas> blas_;
  std::unique_ptr<Dnn> dnn_;
};

// A text that the plugin carries, by its path below flame/.
std::string_view own_text(std::string_view path);
// The own kernels, for what the libraries refuse; on any device that takes kernels.
Ref<Plan> own_gemm(Device& d, const GemmDesc& g);
// float32 that may be rounded to TF32, of few multiplications, with what a device fuses inside; for buffers at multiples of 16
// bytes. Null for anything else.
Ref<Plan> small_gemm(Device& d, const GemmDesc& g);
// 16-bit products with gelu_tanh or its slope, on Hopper, in tiles of so many columns; likewise.
inline constexpr int wide_gemm_columns[] = {256, 192};
Ref<Plan> wide_gemm(CudaDevice& d, const GemmDesc& g, int columns);
Ref<Plan> own_conv(Device& d, const ConvDesc& c);
// A product with what a device fuses done by kernels of ours, behind `product`, the plan of the description without what is done
// last: sums if there are any.
bool has_epilogue(const GemmDesc& g);
GemmDesc without_epilogue(const GemmDesc& g);
Ref<Plan> unfused_gemm(Device& d, const GemmDesc& g, const Ref<Plan>& product);
// The kernels that stand around the libraries' plans, so that a device without a GPU can ask for them too.
Ref<Kernel> gemm_batches_kernel(Device& d, DType t);
void ask_conv_kernels(Device& d, const ConvDesc& c);
// Adds the bias, if there is one, to a channels-last y and applies the activation, in place.
class ConvFinish {
 public:
  ConvFinish(Device& d, DType t, bool bias, Activation a);
  void operator()(const void* bias, void* y, int64_t count, int64_t channels) const;

 private:
  Ref<Kernel> kernel_;
};
// Null where the library has no plan of that kind.
Ref<Plan> blas_gemm(CudaDevice& d, const GemmDesc& g);
Ref<Plan> dnn_conv(CudaDevice& d, const ConvDesc& c);

}  // namespace flame::cuda
