// Internal: padding on a device that compiles text.
#pragma once
#include <array>

#include "flame/device/device.h"
#include "flame/device/kernel.h"
#include "flame/ops/pad.h"
#include "flame/tensor/op.h"

namespace flame {

// Places x [in] inside a dense tensor [out], `before` elements after the start of each axis.
class DevicePad {
 public:
  DevicePad(Device& d, PadMode mode, const Meta& in, const Meta& out, const Dims& before);
  // value: what stands around in constant mode, `bytes` long.
  void operator()(const void* x, void* out, const void* value, size_t bytes) const;

 private:
  struct Axis {
    int64_t size, in_size, before, stride;
  };
  Device* device_;
  PadMode mode_;
  DType dtype_;
  int rank_ = 0;
  std::array<Axis, max_rank> axis_{};  // in the order of memory, slowest first
  int64_t count_, together_ = 1;       // of what is made; neighbours a thread
  bool whole_ = false, small_ = true;  // neighbours are neighbours in x too; places fit 32 bits
  Ref<Kernel> kernel_;

  Ref<Kernel> kernel(int64_t together) const;
  template <class I>
  void launch(const Kernel& k, int64_t together, const void* x, void* out, const void* value, size_t bytes) const;
};

}  // namespace flame
