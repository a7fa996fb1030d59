// What the tests of the CUDA device share: the GPU or a reason to skip, and the plugin's C functions.
#pragma once
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <string>

#include "flame/device/device.h"

namespace flame::test {

// The first GPU, or null and why there is none.
inline Device* gpu(std::string& why) {
  try {
    return &device("cuda:0");
  } catch (const DeviceError& e) { why = e.what(); }
  return nullptr;
}
#define FLAME_NEEDS_GPU(d)                                    \
  std::string why_no_gpu;                                     \
  Device* gpu_or_null = ::flame::test::gpu(why_no_gpu);       \
  if (!gpu_or_null) GTEST_SKIP() << "no GPU: " << why_no_gpu; \
  Device& d = *gpu_or_null

// A function of the plugin's by name; null where the plugin was not built.
template <class F>
F* plugin_function(const char* name) {
  static void* library = dlopen(FLAME_BINARY_DIR "/libflame_cuda.so", RTLD_NOW | RTLD_LOCAL);
  static void* beside = library ? library : dlopen("libflame_cuda.so", RTLD_NOW | RTLD_LOCAL);
  return beside ? reinterpret_cast<F*>(dlsym(beside, name)) : nullptr;
}

struct CompilerCounts {
  uint64_t compiled = 0, from_disk = 0;
  double seconds = 0;
};
inline CompilerCounts compiler_counts() {
  CompilerCounts c;
  if (auto* f = plugin_function<void(uint64_t*, uint64_t*, double*)>("flame_cuda_compiler"))
    f(&c.compiled, &c.from_disk, &c.seconds);
  return c;
}

}  // namespace flame::test
