// The libraries of a device, opened once each.
#include "flame/device/cuda/libraries.h"

#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/library_handles.h"

namespace flame::cuda {

Libraries::Libraries(CudaDevice& d) : device_(d) {}
Libraries::~Libraries() = default;
Libraries::Blas& Libraries::blas() {
  std::lock_guard lock(mutex_);
  if (!blas_) blas_ = std::make_unique<Blas>(device_);
  return *blas_;
}
Libraries::Dnn& Libraries::dnn() {
  std::lock_guard lock(mutex_);
  if (!dnn_) dnn_ = std::make_unique<Dnn>(device_);
  return *dnn_;
}

}  // namespace flame::cuda
