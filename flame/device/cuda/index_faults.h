// Internal: bad indices that kernels met on one device: one record in memory that both sides see, thrown at the next wait.
#pragma once
#include <mutex>

#include "flame/device/cuda/driver.h"

namespace flame::cuda {

class CudaDevice;

class IndexFaults {
 public:
  explicit IndexFaults(CudaDevice& d) : device_(d) {}
  void attach(CUmodule m, const std::string& cubin);  // tells a module that reports where to
  void raise();             // OutOfRange if a kernel that has finished met a bad index; then all is as before

 private:
  struct Record {  // as in device/fault.cuh
    const char* op;
    int64_t index, axis, size;
    uint32_t set;
  };
  struct Sink {
    CUdeviceptr claimed;
    Record* record;
  };
  CudaDevice& device_;
  std::mutex mutex_;
  Sink sink_{};
};

}  // namespace flame::cuda
