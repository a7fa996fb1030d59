// Internal: the functions of cuBLASLt and cuDNN that are used, and a device's handles to them.
#pragma once
#include <cublasLt.h>
#include <cudnn.h>

#include <mutex>
#include <vector>

#include "flame/device/cuda/libraries.h"

namespace flame::cuda {

#define FLAME_BLAS_FUNCTIONS(F)           \
  F(cublasLtCreate)                       \
  F(cublasLtGetVersion)                   \
  F(cublasLtMatmul)                       \
  F(cublasLtMatmulAlgoConfigGetAttribute) \
  F(cublasLtMatmulAlgoGetHeuristic)       \
  F(cublasLtMatmulDescCreate)             \
  F(cublasLtMatmulDescDestroy)            \
  F(cublasLtMatmulDescSetAttribute)       \
  F(cublasLtMatmulPreferenceCreate)       \
  F(cublasLtMatmulPreferenceDestroy)      \
  F(cublasLtMatmulPreferenceSetAttribute) \
  F(cublasLtMatrixLayoutCreate)           \
  F(cublasLtMatrixLayoutDestroy)          \
  F(cublasLtMatrixLayoutSetAttribute)

struct BlasFunctions {
  BlasFunctions();  // opens the library
#define FLAME_DECLARE(name) decltype(&::name) name;
  FLAME_BLAS_FUNCTIONS(FLAME_DECLARE)
#undef FLAME_DECLARE
};
struct Libraries::Blas {
  explicit Blas(CudaDevice& d);
  CudaDevice& device;
  BlasFunctions f;
  cublasLtHandle_t handle = nullptr;
  void* workspace;  // of all products: they run one after the other. No tensor's, so no part of a recording
  void* scratch();  // that one, or another for each further lane of a recorded step's graph

 private:
  std::mutex mutex_;
  std::vector<void*> beside_;
};

#define FLAME_DNN_FUNCTIONS(F)     \
  F(cudnnCreate)                   \
  F(cudnnSetStream)                \
  F(cudnnGetVersion)               \
  F(cudnnBackendCreateDescriptor)  \
  F(cudnnBackendDestroyDescriptor) \
  F(cudnnBackendSetAttribute)      \
  F(cudnnBackendGetAttribute)      \
  F(cudnnBackendFinalize)          \
  F(cudnnBackendExecute)

struct DnnFunctions {
  DnnFunctions();
#define FLAME_DECLARE(name) decltype(&::name) name;
  FLAME_DNN_FUNCTIONS(FLAME_DECLARE)
#undef FLAME_DECLARE
};
struct Libraries::Dnn {
  explicit Dnn(CudaDevice& d);
  CudaDevice& device;
  DnnFunctions f;
  cudnnHandle_t handle = nullptr;
  std::mutex mutex;       // a handle serves one thread at a time
  CUstream on = nullptr;  // what it launches on
  void follow();          // from now on where this thread's launches go; with the mutex held
};

}  // namespace flame::cuda
