// A default device for a block.
#pragma once
#include "flame/device/device.h"

namespace flame {

// While one lives, `d` is this thread's default device; other threads keep theirs. Scopes nest.
class DeviceScope {
 public:
  explicit DeviceScope(Device& d);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  Device* before_;
};

}  // namespace flame
