// The plugin's door: three C functions that the core and the tests look up by name.
#include <chrono>
#include <set>

#include "abi_hash.h"
#include "flame/core/format.h"
#include "flame/device/cuda/compiler.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/dry_device.h"

using namespace flame;

extern "C" {

[[gnu::visibility("default")]] const char* flame_cuda_abi() { return FLAME_ABI_HASH; }

// Registers all GPUs. Empty, or what is missing.
[[gnu::visibility("default")]] const char* flame_cuda_register() {
  static std::string missing;
  try {
    const cuda::Driver* d = cuda::find_driver(missing);
    if (!d) return missing.c_str();
    int count = 0;
    if (const CUresult r = d->cuDeviceGetCount(&count); r != CUDA_SUCCESS) missing = cuda::describe(r);
    else if (count == 0) missing = "the NVIDIA driver sees no GPU";
    else
      for (int i = 0; i < count; ++i) register_device(std::make_unique<cuda::CudaDevice>(i));
  } catch (const std::exception& e) { missing = e.what(); }
  return missing.c_str();
}

// Registers "cuda:dry<arch>", a device that compiles kernels and runs none.
[[gnu::visibility("default")]] void flame_cuda_dry(int arch) {
  static std::set<int> known;
  if (known.insert(arch).second) register_device(std::make_unique<cuda::DryDevice>(arch));
}

// Captures what fn launches on a GPU into a CUDA graph, replays it, and gives the microseconds of a replay.
[[gnu::visibility("default")]] double flame_cuda_capture(Device* device, void (*fn)(void*), void* context,
                                                         int replays) {
  auto& d = static_cast<cuda::CudaDevice&>(*device);
  const cuda::Driver& f = cuda::driver();
  CUgraph graph = nullptr;
  CUgraphExec ready = nullptr;
  d.enter();
  d.check(f.cuStreamBeginCapture(d.stream(), CU_STREAM_CAPTURE_MODE_RELAXED), "cuStreamBeginCapture");
  fn(context);
  d.check(f.cuStreamEndCapture(d.stream(), &graph), "cuStreamEndCapture");
  d.check(f.cuGraphInstantiateWithFlags(&ready, graph, 0), "cuGraphInstantiateWithFlags");
  d.check(f.cuGraphLaunch(ready, d.stream()), "cuGraphLaunch");
  d.synchronize();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < replays; ++i) d.check(f.cuGraphLaunch(ready, d.stream()), "cuGraphLaunch");
  d.synchronize();
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
  f.cuGraphExecDestroy(ready);
  f.cuGraphDestroy(graph);
  return took.count() / replays;
}

// Kernels compiled and read from the disk since start, and seconds spent in NVRTC.
[[gnu::visibility("default")]] void flame_cuda_compiler(uint64_t* compiled, uint64_t* from_disk, double* seconds) {
  const cuda::CompilerStats s = cuda::compiler_stats();
  *compiled = s.compiled;
  *from_disk = s.from_disk;
  *seconds = s.seconds;
}
}
