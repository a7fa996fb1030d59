// What the tests of the CUDA device share: the GPU or a reason to skip, and the plugin's C functions.
#pragma once
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include "flame/device/device.h"
#include "flame/device/plugin.h"
#include "tests/emulator/emulated_device.h"

namespace flame::test {

// The first GPU, or null and why there is none. With FLAME_EMULATED the emulated one, for tests of single ops.
inline Device* gpu(std::string& why) {
  if (std::getenv("FLAME_EMULATED")) return &emulated::emulated_device();
  try {
    return &device("cuda:0");
  } catch (const DeviceError& e) { why = e.what(); }
  return nullptr;
}
#define FLAME_NEEDS_GPU(d)                                    \
  std::string why_no_gpu;                                     \
  Device* gpu_or_null = ::flame::test::gpu(why_no_gpu);       \
  if (!gpu_or_null) GTEST_SKIP() << "no GPU: " << why_no_gpu; \
  [[maybe_unused]] Device& d = *gpu_or_null

// A function of the plugin's by name; null where the plugin was not built.
template <class F>
F* plugin_function(const char* name) {
  std::string missing;
  return reinterpret_cast<F*>(cuda_plugin_function(name, missing));
}

// What the plugin says of a GPU.
struct DeviceLook {
  size_t driver_used = 0;
  int busy = 0, uploading = 0;
};
inline DeviceLook look(Device& d) {
  DeviceLook out;
  if (auto* f = plugin_function<void(Device*, DeviceLook*)>("flame_cuda_look")) f(&d, &out);
  return out;
}

struct TuningCounts {
  uint64_t keys = 0, candidates = 0, from_disk = 0, fused_convolutions = 0, pointer_batches = 0, fused_products = 0,
           unordered = 0, aligned_copies = 0, epilogues = 0, epilogue_kernels = 0;
};
inline TuningCounts tuning_counts() {
  TuningCounts c;
  if (auto* f = plugin_function<void(uint64_t*)>("flame_cuda_tuning")) f(&c.keys);
  return c;
}

// The n-th allocation that the driver is asked for fails, and `count` - 1 after it; gives how many have failed so far.
inline int64_t fail_driver(int64_t nth, int64_t count) {
  auto* f = plugin_function<int64_t(int64_t, int64_t)>("flame_cuda_fail_driver");
  return f ? f(nth, count) : 0;
}

// A command's output, and how it ended.
struct Output {
  int status = -1;
  std::string text;
};
inline Output run_command(const std::string& command) {
  Output out;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return out;
  char part[4096];
  for (size_t n; (n = fread(part, 1, sizeof part, pipe)) > 0;) out.text.append(part, n);
  out.status = pclose(pipe);
  return out;
}
// A test of this binary in a process of its own; `environment` as in "A=1 B=2". Its name starts with DISABLED_.
inline Output run_worker(const std::string& test, const std::string& environment = "") {
  const std::string command = environment + " " + std::filesystem::read_symlink("/proc/self/exe").string() +
                              " --gtest_also_run_disabled_tests --gtest_color=no --gtest_filter=" + test;
  Output out = run_command(command);
  // Processes that test beside this one may hold all of the GPU's memory for a while.
  for (int i = 0; i < 20 && out.text.find("cuDevicePrimaryCtxRetain on") != std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::seconds(1));
    out = run_command(command);
  }
  return out;
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
