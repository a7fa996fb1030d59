// Internal: what device bodies share: kernels of ops/*.cu by dtype, and copies between strided tensors.
#pragma once
#include "flame/device/device.h"
#include "flame/device/kernel.h"
#include "flame/device/cpu/strided_copy.h"

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
  Device* device_;
  size_t element_;
  int64_t together_ = 1;  // elements that move as one, where both tensors begin at a multiple of their size
  Ref<Kernel> kernel_;
  Ref<Kernel> kernel(int64_t together) const;
};

// A walk over an index beside a tensor of its shape and one that it points into: as in gather.cu.
struct DeviceIndexWalk {
  DeviceIndexWalk(const Meta& small, const Meta& index, const Meta& big, int axis);
  int64_t rank, count, axis, size, step;
  int64_t shape[max_rank]{}, small[max_rank]{}, index[max_rank]{}, big[max_rank]{};
};

// What a draw's kernel is told: as in random.cu.
struct DeviceDraw {
  uint64_t seed, call;
  int64_t count;
  double f[6];
  uint64_t u[2];
};

// Sorts rows of entries (key, place), `padded` each, a power of two: as in sort.cu.
class DeviceSort {
 public:
  DeviceSort(Device& d, DType t, int64_t rows, int64_t n);
  int64_t padded() const { return padded_; }
  size_t workspace() const { return static_cast<size_t>(rows_ * padded_) * 16; }
  void operator()(void* entries) const;

 private:
  int64_t rows_, padded_;
  Ref<Kernel> stages_, step_;
};

}  // namespace flame
