// A kernel that meets a bad index notes it here, treats it harmlessly and goes on; the host throws at its next wait.
// The device sets `flame_faults` when it loads the kernel: as in device/cuda/index_faults.h.
#pragma once
#include "flame/fuse/device.cuh"

namespace flame {

struct FaultRecord {
  const char* op;  // the host's pointer
  int64_t index, axis, size;
  uint32_t set;
};
struct FaultSink {
  uint32_t* claimed;  // on the device: the first fault takes it
  FaultRecord* record;
};

}  // namespace flame

extern "C" {
__constant__ flame::FaultSink flame_faults;
}

namespace flame {

// axis -1: a target of so many classes.
inline void report_bad_index(const char* op, int64_t index, int64_t axis, int64_t size) {
  if (atomicExch(flame_faults.claimed, 1u) != 0) return;
  volatile FaultRecord& r = *flame_faults.record;
  r.op = op;
  r.index = index;
  r.axis = axis;
  r.size = size;
  __threadfence_system();
  r.set = 1;
}

}  // namespace flame
