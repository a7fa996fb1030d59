// C functions by which tests and tools look into the plugin: counters, planted failures, a device that only compiles.
#include <chrono>
#include <set>

#include "flame/device/cuda/compiler.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/dry_device.h"
#include "flame/device/cuda/tuning.h"

using namespace flame;

extern "C" {

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

// The most kernels that were compiled at one time so far.
[[gnu::visibility("default")]] int flame_cuda_most_compiled_at_once() { return cuda::compiler_stats().most_at_once; }

// Has a dry device compile beside the program and note launches in their order; null: at once again.
[[gnu::visibility("default")]] void flame_cuda_dry_later(Device* d, std::vector<std::string>* launched) {
  static_cast<cuda::DryDevice*>(d)->set_later(launched);
}

// Of the allocations asked of the driver from now, `count` fail, the `nth` first; gives how many have failed so far.
[[gnu::visibility("default")]] int64_t flame_cuda_fail_driver(int64_t nth, int64_t count) {
  cuda::fail_driver_allocation(nth, count);
  return cuda::driver_failures();
}

// One driver allocation a tensor, or the cache again.
[[gnu::visibility("default")]] void flame_cuda_direct(Device* d, bool on) {
  static_cast<cuda::CudaDevice*>(d)->set_direct(on);
}

struct flame_cuda_state {
  size_t driver_used;  // bytes that the device's free memory shrank by since it was opened
  int busy, uploading;
};
[[gnu::visibility("default")]] void flame_cuda_look(Device* device, flame_cuda_state* out) {
  const auto& d = *static_cast<cuda::CudaDevice*>(device);
  *out = {d.driver_used(), d.busy(), d.uploading()};
}

// Keys timed, candidates timed, choices read from the disk, runs of fused convolutions, products by pointers.
[[gnu::visibility("default")]] void flame_cuda_tuning(uint64_t out[5]) {
  const cuda::TuningStats& s = cuda::tuning_stats();
  const std::atomic<uint64_t>* all[] = {&s.keys_timed, &s.candidates_timed, &s.from_disk, &s.fused_bias,
                                        &s.pointer_batches};
  for (int i = 0; i < 5; ++i) out[i] = *all[i];
}

// The choice for a key: known, or made by `time`. With `forget`, only what is on disk counts as known.
[[gnu::visibility("default")]] int flame_cuda_tune(const char* library, const char* gpu, const char* key,
                                                   int candidates, double (*time)(int, void*), void* context,
                                                   bool forget) {
  if (forget) cuda::forget_tuned();
  const cuda::TuningKey k{library, gpu, key};
  if (const auto known = cuda::find_tuned(k)) return static_cast<int>(known->chosen);
  std::vector<std::string> configs;
  configs.reserve(static_cast<size_t>(candidates));
  for (int i = 0; i < candidates; ++i) configs.push_back("candidate number " + std::to_string(i));
  const auto by = [&](size_t i) { return time(static_cast<int>(i), context); };
  return static_cast<int>(cuda::tune(k, std::move(configs), by).chosen);
}
}
