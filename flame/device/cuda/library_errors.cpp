// Statuses of the libraries, sorted.
#include "flame/device/cuda/library_errors.h"

#include "flame/core/format.h"

namespace flame::cuda {

Verdict verdict(cublasStatus_t s) {
  switch (s) {
    case CUBLAS_STATUS_SUCCESS: return Verdict::done;
    case CUBLAS_STATUS_ALLOC_FAILED: return Verdict::no_memory;
    case CUBLAS_STATUS_NOT_SUPPORTED:
    case CUBLAS_STATUS_INVALID_VALUE:
    case CUBLAS_STATUS_ARCH_MISMATCH: return Verdict::unsupported;
    default: return Verdict::failed;
  }
}

Verdict verdict(cudnnStatus_t s) {
  if (s == CUDNN_STATUS_SUCCESS) return Verdict::done;
  if (s == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ||
      s == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED)
    return Verdict::no_memory;
  if (s == CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED) return Verdict::unsupported;  // of one engine, always
  return s >= 2000 && s < 4000 ? Verdict::unsupported : Verdict::failed;                 // BAD_PARAM, NOT_SUPPORTED
}

std::string status_name(cublasStatus_t s) {
  switch (s) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_MAPPING_ERROR: return "CUBLAS_STATUS_MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_LICENSE_ERROR: return "CUBLAS_STATUS_LICENSE_ERROR";
  }
  return fmt::format("cuBLAS status {}", static_cast<int>(s));
}
// cuDNN numbers its statuses by kind.
std::string status_name(cudnnStatus_t s) {
  constexpr const char* kinds[] = {"NOT_INITIALIZED", "BAD_PARAM", "NOT_SUPPORTED", "INTERNAL_ERROR",
                                   "EXECUTION_FAILED"};
  const int kind = static_cast<int>(s) / 1000 - 1;
  return fmt::format("CUDNN_STATUS {}{}", static_cast<int>(s),
                     kind >= 0 && kind < 5 ? fmt::format(" ({})", kinds[kind]) : "");
}

void raise_device_error(CudaDevice& d, Verdict v, const char* what) {
  if (v == Verdict::no_memory) d.refuse(what);
  if (v == Verdict::failed && !d.capturing()) d.synchronize();
}

}  // namespace flame::cuda
