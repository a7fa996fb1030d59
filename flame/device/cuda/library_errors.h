// Internal: what a status of cuBLASLt or cuDNN means for the device that it came from.
#pragma once
#include <cublasLt.h>
#include <cudnn.h>

#include <string>

#include "flame/core/format.h"
#include "flame/device/cuda/cuda_device.h"

namespace flame::cuda {

enum class Verdict : uint8_t { done, unsupported, no_memory, failed };
Verdict verdict(cublasStatus_t s);
Verdict verdict(cudnnStatus_t s);
std::string status_name(cublasStatus_t s);
std::string status_name(cudnnStatus_t s);

// Throws what stands behind a failure: the device's own error, which names the launch, or OutOfMemory with the report. Gives
// back only where the device is well and there was memory: then it is the library that failed.
void raise_device_error(CudaDevice& d, Verdict v, const char* what);

// Runs fn, which gives a status, and once more with the cache emptied if there was no memory.
template <class Fn>
auto with_memory(CudaDevice& d, Fn&& fn) {
  auto s = fn();
  if (verdict(s) != Verdict::no_memory || d.capturing()) return s;
  d.empty_cache();
  return fn();
}
// For what must work: throws otherwise.
template <class Fn>
void must(CudaDevice& d, const char* what, Fn&& fn) {
  const auto s = with_memory(d, fn);
  if (verdict(s) == Verdict::done) return;
  raise_device_error(d, verdict(s), what);
  fail<DeviceError>(Loc::current(), "cuda: {} failed: {}", what, status_name(s));
}
// For one of several ways: false where the library refuses it or breaks on it while the device is well.
template <class Fn>
bool works(CudaDevice& d, const char* what, Fn&& fn) {
  const auto s = with_memory(d, fn);
  if (verdict(s) == Verdict::done) return true;
  raise_device_error(d, verdict(s), what);
  return false;
}

}  // namespace flame::cuda
