// Internal: pooling on a device that compiles text.
#pragma once
#include "flame/device/cpu/pool_kernel.h"
#include "flame/device/device.h"

namespace flame {

// Whether windows are few places next to each other, for which kernels are written out (pool_fixed.cu). A maximum's place is
// then its number in the window, uint8, unless places in the plane are asked for.
bool has_fixed_windows(const PoolSizes& p);

// index and out: which buffers they are, as in Pool::plan; place: the index's dtype.
struct DevicePoolPass {
  const char* name;
  PoolPass pass;
  DType dtype, place;
  int index, out;
  bool backward() const { return pass == PoolPass::max_backward || pass == PoolPass::average_backward; }
  const char* entry() const {
    constexpr const char* entries[] = {"max_pool", "max_pool_backward", "max_pool_gather", "average",
                                       "average_backward"};
    return entries[static_cast<int>(pass)];
  }
};
Ref<Plan> device_pool(Device& d, const DevicePoolPass& pass, const PoolSizes& p);

}  // namespace flame
