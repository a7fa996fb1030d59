// What flame-info prints: the pieces that are there, the cache, and the choices that were timed.
#include <algorithm>

#include "flame/core/format.h"
#include "flame/device/cuda/cache.h"
#include "flame/device/cuda/compiler.h"
#include "flame/device/cuda/cuda_device.h"
#include "flame/device/cuda/library_handles.h"
#include "flame/device/cuda/tuning.h"

namespace flame::cuda {
namespace {

std::string gpus() {
  std::string missing;
  const Driver* d = find_driver(missing);
  if (!d) return "driver: " + missing + "\ndevices: none\n";
  int version = 0, count = 0;
  d->cuDriverGetVersion(&version);
  std::string out = fmt::format("driver: CUDA {}.{}\n", version / 1000, version % 1000 / 10);
  if (d->cuDeviceGetCount(&count) != CUDA_SUCCESS || count == 0) return out + "devices: none; the driver sees no GPU\n";
  for (int i = 0; i < count; ++i) {
    CUdevice one = 0;
    char name[128] = "";
    size_t bytes = 0;
    int major = 0, minor = 0, processors = 0;
    d->cuDeviceGet(&one, i);
    d->cuDeviceGetName(name, sizeof name, one);
    d->cuDeviceTotalMem(&bytes, one);
    d->cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, one);
    d->cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, one);
    d->cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, one);
    out += fmt::format("device cuda:{}: {}, sm_{}{}, {} multiprocessors, {} MiB\n", i, name, major, minor, processors,
                       bytes >> 20);
  }
  return out;
}

// "NAME: version", or why it is not there.
std::string library(const char* name, const std::function<std::string()>& version) {
  try {
    return fmt::format("{}: {}\n", name, version());
  } catch (const DeviceError& e) { return fmt::format("{}: not there: {}\n", name, e.what()); }
}
std::string dnn_version() {
  const size_t v = DnnFunctions().cudnnGetVersion();
  return fmt::format("{}.{}.{}", v / 10000, v % 10000 / 100, v % 100);
}
std::string blas_version() {
  const size_t v = BlasFunctions().cublasLtGetVersion();
  return fmt::format("{}.{}.{}", v / 10000, v % 10000 / 100, v % 100);
}

std::string cache() {
  size_t files = 0, bytes = 0, kernels = 0, choices = 0;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(cache_folder(), none)) {
    const auto size = entry.file_size(none);
    if (none) continue;
    ++files;
    bytes += size;
    kernels += entry.path().extension() == ".cubin";
    choices += entry.path().extension() == ".tuned";
  }
  return fmt::format("cache: {}, {} files, {} bytes: {} kernels, {} tuned choices\n", cache_folder().string(), files,
                     bytes, kernels, choices);
}

std::string choices() {
  std::string out, section;
  for (const TunedFile& f : tuned_files()) {
    if (std::string here = fmt::format("\n{} on {}\n", f.key.library, f.key.gpu); here != section)
      out += section = std::move(here);
    out += "  " + f.key.text + "\n";
    for (size_t i = 0; i < f.tuned.candidates.size(); ++i) {
      const Candidate& c = f.tuned.candidates[i];
      out += fmt::format("    {} {:>10} us  {}\n", i == f.tuned.chosen ? '*' : ' ',
                         c.microseconds < 0 ? "failed" : fmt::format("{:.1f}", c.microseconds), c.config);
    }
  }
  return out;
}

}  // namespace
}  // namespace flame::cuda

// A report in lines of text; it stays until the next call.
extern "C" [[gnu::visibility("default")]] const char* flame_cuda_info() {
  using namespace flame::cuda;
  static std::string report;
  report = gpus() + library("NVRTC", nvrtc_version) + library("cuBLASLt", blas_version) +
           library("cuDNN", dnn_version) + cache() + choices();
  return report.c_str();
}
