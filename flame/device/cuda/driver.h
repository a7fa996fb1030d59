// Internal: the CUDA driver's functions, found in libcuda.so.1 at run time, and the check of what they return.
#pragma once
#include <cuda.h>

#include <string>

#include "flame/core/error.h"

namespace flame::cuda {

#define FLAME_DRIVER_FUNCTIONS(F)      \
  F(cuInit)                            \
  F(cuDriverGetVersion)                \
  F(cuGetErrorName)                    \
  F(cuGetErrorString)                  \
  F(cuDeviceGetCount)                  \
  F(cuDeviceGet)                       \
  F(cuDeviceGetName)                   \
  F(cuDeviceGetAttribute)              \
  F(cuDeviceTotalMem)                  \
  F(cuDeviceCanAccessPeer)             \
  F(cuDevicePrimaryCtxRetain)          \
  F(cuCtxSetCurrent)                   \
  F(cuCtxGetCurrent)                   \
  F(cuCtxGetStreamPriorityRange)       \
  F(cuCtxEnablePeerAccess)             \
  F(cuStreamCreate)                    \
  F(cuStreamSynchronize)               \
  F(cuStreamQuery)                     \
  F(cuStreamWaitEvent)                 \
  F(cuStreamWriteValue32)              \
  F(cuStreamIsCapturing)               \
  F(cuStreamUpdateCaptureDependencies) \
  F(cuStreamGetCaptureInfo)            \
  F(cuStreamBeginCapture)              \
  F(cuStreamEndCapture)                \
  F(cuGraphGetNodes)                   \
  F(cuGraphNodeGetType)                \
  F(cuGraphNodeGetDependencies)        \
  F(cuGraphKernelNodeSetAttribute)     \
  F(cuGraphInstantiateWithFlags)       \
  F(cuGraphExecKernelNodeSetParams)    \
  F(cuGraphExecMemcpyNodeSetParams)    \
  F(cuGraphUpload)                     \
  F(cuGraphLaunch)                     \
  F(cuGraphExecDestroy)                \
  F(cuGraphDestroy)                    \
  F(cuEventCreate)                     \
  F(cuEventRecord)                     \
  F(cuEventQuery)                      \
  F(cuEventSynchronize)                \
  F(cuEventElapsedTime)                \
  F(cuEventDestroy)                    \
  F(cuMemAlloc)                        \
  F(cuMemFree)                         \
  F(cuMemGetInfo)                      \
  F(cuMemAllocHost)                    \
  F(cuMemFreeHost)                     \
  F(cuMemcpyPeerAsync)                 \
  F(cuMemcpyHtoDAsync)                 \
  F(cuMemcpyDtoHAsync)                 \
  F(cuMemcpyDtoDAsync)                 \
  F(cuMemsetD8Async)                   \
  F(cuModuleLoadData)                  \
  F(cuModuleGetFunction)               \
  F(cuModuleGetGlobal)                 \
  F(cuFuncLoad)                        \
  F(cuFuncGetParamInfo)                \
  F(cuFuncGetAttribute)                \
  F(cuFuncSetAttribute)                \
  F(cuLaunchKernel)                    \
  F(cuTensorMapEncodeTiled)

struct Driver {
#define FLAME_DECLARE(name) decltype(&::name) name;
  FLAME_DRIVER_FUNCTIONS(FLAME_DECLARE)
#undef FLAME_DECLARE
};

// Loads and initialises the driver once; `missing` says why there is none, `broken` whether it is there and should work.
const Driver* find_driver(std::string& missing, bool* broken = nullptr);
const Driver& driver();  // throws DeviceError if there is none

std::string describe(CUresult r);

}  // namespace flame::cuda
