// Internal: what device bodies share: kernels of ops/*.cu by dtype, and copies between strided tensors.
#pragma once
#include "flame/device/device.h"
#include "flame/device/kernel.h"
#include "flame/ops/strided_internal.h"

namespace flame {

// The kernel `entry` of flame/`file`, with FLAME_T the memory type of `t`. Nothing contracts multiply and add.
Ref<Kernel> device_kernel(Device& d, const char* file, const char* entry, DType t,
                          std::vector<std::string> options = {});
// As above, FLAME_T an unsigned integer of so many bytes.
Ref<Kernel> moving_kernel(Device& d, const char* file, const char* entry, size_t element,
                          std::vector<std::string> options = {});

// Copies elements of one size from strides `from` to strides `to`, as StridedCopy does on the host.
class DeviceCopy {
 public:
  DeviceCopy(Device& d, const Shape& shape, const Strides& to, const Strides& from, size_t element);
  void operator()(void* to, const void* from) const;

 private:
  struct Walk {
    int64_t rank, count;
    int64_t shape[max_rank], to[max_rank], from[max_rank];
  } walk_{};
  Ref<Kernel> kernel_;
};

// A walk over an index beside a tensor of its shape and one that it points into: as in gather.cu.
struct DeviceIndexWalk {
  DeviceIndexWalk(const Meta& small, const Meta& index, const Meta& big, int axis);
  int64_t rank, count, axis, size, step;
  int64_t shape[max_rank]{}, small[max_rank]{}, index[max_rank]{}, big[max_rank]{};
};

}  // namespace flame
