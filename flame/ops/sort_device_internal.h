// Internal: how a device brings rows into order.
#pragma once
#include "flame/ops/device_internal.h"

namespace flame {

// What is wanted of x along the axis: as many as y has there, from the `first` place in order on. `middle`: the first NaN
// instead, if there is one.
struct DeviceOrder {
  int axis = 0;
  int64_t first = 0;
  bool middle = false, descending = false;
};
// A plan (x) -> values, places.
Ref<Plan> plan_order(Device& d, const char* name, const Meta& x, const Meta& y, const DeviceOrder& o);

}  // namespace flame
