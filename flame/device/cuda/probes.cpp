// C functions by which tests and tools look into the plugin: counters, planted failures, a device that only compiles.
#include <chrono>
#include <set>

#include "flame/device/cuda/compiler.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/dry_device.h"
#include "flame/device/cuda/libraries.h"
#include "flame/device/cuda/library_errors.h"
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

// A text that the plugin carries; it lasts.
[[gnu::visibility("default")]] const char* flame_cuda_text(const char* path) { return cuda::own_text(path).data(); }

// The plan of a product on Hopper by the own kernel, or null; the caller has a count of it.
[[gnu::visibility("default")]] Plan* flame_cuda_wide_gemm(Device* d, const GemmDesc* g, int columns) {
  auto* gpu = dynamic_cast<cuda::CudaDevice*>(d);
  const Ref<Plan> p = gpu ? cuda::wide_gemm(*gpu, *g, columns) : Ref<Plan>();
  if (p) p->retain();
  return p.get();
}

// The plan of any product by the own kernel; the caller has a count of it.
[[gnu::visibility("default")]] Plan* flame_cuda_own_gemm(Device* d, const GemmDesc* g) {
  const Ref<Plan> p = cuda::own_gemm(*d, *g);
  p->retain();
  return p.get();
}

// The plan of a small product by the own kernel, or null; the caller has a count of it.
[[gnu::visibility("default")]] Plan* flame_cuda_small_gemm(Device* d, const GemmDesc* g) {
  const Ref<Plan> p = cuda::small_gemm(*d, *g);
  if (p) p->retain();
  return p.get();
}

// Calls a library that gives `status` the first `failures` times and success then; as what must work, or as one of several
// ways. Gives the number of calls, negative where the library was found not to do it.
[[gnu::visibility("default")]] int flame_cuda_library_call(Device* device, bool dnn, int status, int failures,
                                                           bool needed) {
  auto& d = static_cast<cuda::CudaDevice&>(*device);
  int calls = 0;
  const auto run = [&](auto good, auto bad) {
    const auto fn = [&] { return calls++ < failures ? bad : good; };
    if (needed) cuda::must(d, "a planted call", fn);
    return needed || cuda::works(d, "a planted call", fn);
  };
  const bool done = dnn ? run(CUDNN_STATUS_SUCCESS, static_cast<cudnnStatus_t>(status))
                        : run(CUBLAS_STATUS_SUCCESS, static_cast<cublasStatus_t>(status));
  return done ? calls : -calls;
}

// Keys timed, candidates timed, choices read from the disk, runs of fused convolutions, products by pointers, plans of
// products with an epilogue, candidates without order left out, buffers copied to be aligned, runs of epilogues, of kernels
// in their place.
[[gnu::visibility("default")]] void flame_cuda_tuning(uint64_t out[10]) {
  const cuda::TuningStats& s = cuda::tuning_stats();
  const std::atomic<uint64_t>* all[] = {&s.keys_timed,      &s.candidates_timed, &s.from_disk, &s.fused_convolutions,
                                        &s.pointer_batches, &s.fused_products,   &s.unordered, &s.aligned_copies,
                                        &s.epilogues,       &s.epilogue_kernels};
  for (int i = 0; i < 10; ++i) out[i] = *all[i];
}

// The choice for a key among `count` configurations: known, or made by `time`. With `forget`, only what is on disk counts
// as known.
[[gnu::visibility("default")]] int flame_cuda_tune(const char* library, const char* gpu, const char* key,
                                                   const char* const* configs, int count, double (*time)(int, void*),
                                                   void* context, bool forget) {
  if (forget) cuda::forget_tuned();
  const auto by = [&](size_t i) { return time(static_cast<int>(i), context); };
  return static_cast<int>(cuda::choose({library, gpu, key}, {configs, configs + count}, by));
}
}
