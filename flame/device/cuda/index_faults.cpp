// Bad indices of kernels.
#include "flame/device/cuda/index_faults.h"

#include <cstring>

#include "flame/core/format.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/out_of_range.h"

namespace flame::cuda {

void IndexFaults::attach(CUmodule m, const std::string& cubin) {
  constexpr const char* name = "flame_faults";
  if (cubin.find(name) == std::string::npos) return;  // the driver would count the question as an error
  CUdeviceptr here = 0;
  size_t bytes = 0;
  if (driver().cuModuleGetGlobal(&here, &bytes, m, name) != CUDA_SUCCESS) return;
  std::lock_guard lock(mutex_);
  if (!sink_.record) {
    void* p = nullptr;
    if (!sink_.claimed)
      device_.check(device_.with_room([&] { return driver().cuMemAlloc(&sink_.claimed, sizeof(uint32_t)); }),
                    "allocation");
    device_.check(driver().cuMemAllocHost(&p, sizeof(Record)), "pinned memory");
    std::memset(p, 0, sizeof(Record));
    device_.check(driver().cuMemsetD8Async(sink_.claimed, 0, sizeof(uint32_t), device_.own_stream()), "fill");
    sink_.record = static_cast<Record*>(p);
  }
  device_.check(driver().cuMemcpyHtoDAsync(here, &sink_, sizeof sink_, device_.own_stream()), "copy from host");
}

void IndexFaults::raise() {
  std::lock_guard lock(mutex_);
  if (!sink_.record || !static_cast<volatile Record*>(sink_.record)->set) return;
  const Record r = *sink_.record;
  sink_.record->set = 0;
  device_.check(driver().cuMemsetD8Async(sink_.claimed, 0, sizeof(uint32_t), device_.own_stream()), "fill");
  std::string what =
      r.axis < 0 ? fmt::format("{}: target {} is out of range for {} classes", r.op, r.index, r.size)
                 : fmt::format("{}: index {} is out of range for axis {} of size {}", r.op, r.index, r.axis, r.size);
  throw OutOfRange(what + fmt::format(" (met on {} before this wait; FLAME_SYNC=1 tells the call)", device_.name()));
}

}  // namespace flame::cuda
