# Finds the headers of the CUDA toolkit and cuDNN, which is all that building the CUDA plugin takes, and those of
# cudnn-frontend, without which attention has own kernels alone. Sets FLAME_WITH_CUDA, FLAME_CUDA_INCLUDE,
# FLAME_CUDA_LIBRARIES and FLAME_CUDNN_FRONTEND_H.
set(FLAME_CUDA_ROOT "/usr/local/cuda" CACHE PATH "Where the CUDA toolkit's include/ is")
set(FLAME_WITH_CUDA OFF)
if(NOT FLAME_CUDA STREQUAL "OFF")
  set(places "${FLAME_CUDA_ROOT}/include" "${PROJECT_SOURCE_DIR}/.deps/cuda/include")
  find_path(FLAME_CUDA_H cuda.h HINTS ${places})
  find_path(FLAME_NVRTC_H nvrtc.h HINTS ${places})
  find_path(FLAME_CUBLASLT_H cublasLt.h HINTS ${places})
  find_path(FLAME_CUDNN_H cudnn.h HINTS ${places})
  if(FLAME_CUDA_H AND FLAME_NVRTC_H AND FLAME_CUBLASLT_H AND FLAME_CUDNN_H)
    set(FLAME_WITH_CUDA ON)
    set(FLAME_CUDA_INCLUDE "${FLAME_CUDA_H}" "${FLAME_NVRTC_H}" "${FLAME_CUBLASLT_H}" "${FLAME_CUDNN_H}")
    list(REMOVE_DUPLICATES FLAME_CUDA_INCLUDE)
    cmake_path(GET FLAME_NVRTC_H PARENT_PATH FLAME_CUDA_LIBRARIES)  # searched after the system's own path
    set(FLAME_CUDA_LIBRARIES "${FLAME_CUDA_LIBRARIES}/lib")
    find_path(FLAME_CUDNN_FRONTEND_H cudnn_frontend.h
      HINTS "${PROJECT_SOURCE_DIR}/.deps/cudnn-frontend/include" "${FLAME_CUDA_ROOT}/include")
  elseif(FLAME_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FLAME_CUDA=ON, but cuda.h, nvrtc.h, cublasLt.h or cudnn.h is not found: set FLAME_CUDA_ROOT")
  endif()
endif()
message(STATUS "CUDA device: ${FLAME_WITH_CUDA}; cudnn-frontend: ${FLAME_CUDNN_FRONTEND_H}")
